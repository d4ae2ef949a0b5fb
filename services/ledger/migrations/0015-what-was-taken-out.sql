-- What was rejected, and taken out with a tail, counts as arrived until it is read again: `log check` looks there, too.
grant select on dropped_row to ledger;
