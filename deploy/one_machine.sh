#!/usr/bin/env bash
# All of it on one machine, in a container: Ray with a metrics port that is known, and the service on it. KubeRay starts
# Ray itself and does not come here.
set -euo pipefail

# libpq wants its passwords in the environment, or in a file that nobody else may read.
if [ -r /run/secrets/postgres_password ]; then
  PGPASSWORD=$(</run/secrets/postgres_password)
  export PGPASSWORD
fi
ray start --head --include-dashboard=false --metrics-export-port=8080 --object-store-memory=536870912
exec tidegate serve --address auto --config "$1"
