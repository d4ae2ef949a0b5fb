-- include: shared/outbox/progress.sql

grant select, insert, update on outbox_progress to newsletter;
