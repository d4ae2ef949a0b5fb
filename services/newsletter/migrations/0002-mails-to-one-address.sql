-- How many mails an address has had of late is asked at each sign-up, and a person's requests at each withdrawal.
-- A person has few, so one index serves both; the one over open requests alone is not needed beside it.
create index request_of on request (subject, requested_at);
drop index request_open_of;
