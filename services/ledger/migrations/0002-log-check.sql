-- What the last `log check` of each log said: so that a check that nobody runs, or that found something, is noticed.
-- For operators only. It proves nothing: who can alter the log can alter this.
create table log_check (
    shard      integer     primary key references log,
    findings   integer     not null check (findings >= 0),
    checked_at timestamptz not null
);

grant select, insert, update on log_check to ledger;
