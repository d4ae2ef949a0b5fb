-- Register snapshots lie beside sealed attachments. A statement that names one as its attachment does not take it along
-- when its subject is erased.
create function keep_register() returns trigger language plpgsql as $$
begin
    return null;
end
$$;
create trigger keep_register before delete on attachment for each row
    when (position('"consent-ledger/register/1"'::bytea in old.content) > 0) execute function keep_register();
