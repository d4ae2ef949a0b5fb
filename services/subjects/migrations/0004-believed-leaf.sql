-- include: shared/follower/believed.sql
grant update (leaf, contradicted) on position to subjects;
