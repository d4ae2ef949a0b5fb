#!/bin/bash
# What docker-compose.yml and infra/kubernetes rely on of the official image's scripts; the class that makes the
# settings from file and environment, and formats the storage, is the official image's own.
set -euo pipefail
export CLUSTER_ID=${CLUSTER_ID:-5L6g3nShT-eMCtK--X86sw}
class_path=$(printf '%s:' /opt/kafka/libs/*.jar)
flags=(-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData -Djava.awt.headless=true)
said=$(java "${flags[@]}" -cp "$class_path" kafka.docker.KafkaDockerWrapper setup \
  --default-configs-dir /etc/kafka/docker --mounted-configs-dir /mnt/shared/config \
  --final-configs-dir /opt/kafka/config 2>&1) || grep -qi "already formatted" <<< "$said" || { echo "$said"; exit 1; }
# shellcheck disable=SC2086
exec java ${KAFKA_HEAP_OPTS:-} "${flags[@]}" -Dlog4j2.configurationFile=/opt/kafka/config/log4j2.yaml \
  -cp "$class_path" kafka.Kafka /opt/kafka/config/server.properties
