# Two stages: what builds does not run. The image runs as a user without rights, from a read-only tree;
# the ledger, the one thing written, lives in the volume /data.

FROM python:3.13-slim AS build
RUN python -m venv /opt/tollgate
WORKDIR /src
COPY requirements.lock ./
RUN /opt/tollgate/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY proxy proxy
COPY config/billing.toml config/billing.toml
RUN /opt/tollgate/bin/pip install --no-cache-dir --no-deps .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home tollgate && install -d -o tollgate -g tollgate /data
COPY --from=build /opt/tollgate /opt/tollgate
ENV PATH=/opt/tollgate/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TOLLGATE_DATABASE_URL=sqlite:////data/tollgate.db \
    TOLLGATE_HOST=0.0.0.0
USER 10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('TOLLGATE_PORT', '8000') + '/readyz', timeout=2)"]
# No shell in between: SIGTERM reaches the server, which lets streams finish and settles the rest.
ENTRYPOINT ["tollgate"]
CMD ["serve"]
