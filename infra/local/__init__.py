"""Real Apache Kafka and PostgreSQL as local processes: fetched once, started, health-checked and stopped from here.

One run owns one state folder (`.local/demo`, `.local/tests/<n>`), laid out as

    run.lock                     held while a run lives; says whose it is and where to find it
    processes/<name>.lock        held by the process that runs <name>
    processes/<name>.json        pid and start time of <name>, written by <name> itself before it becomes what it runs
    kafka/                       server.properties, log/ (the data), kafka.log (what it printed), ports.json
    postgres/                    data/, socket/ (0700), postgres.log

PostgreSQL refuses root, so under root it runs as `nobody`. Where `nobody` cannot reach the checkout, its data and a
copy of its programs live below `/var/tmp/consent-ledger-<hash of the checkout>`. Jars are shared by all checkouts
(`downloads.py`). `python -m infra.local.clean` ends and removes all of it but the jars.
"""
