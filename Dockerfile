# The images of podnet-agent (two static Go binaries, and nft with its libraries from Debian) and of podnet-proxy (one, and iptables), at the versions and checksums of
# deploy/image/*.lock. No shell, no package manager. Nothing is emulated for another architecture.
#
#   for image in podnet-agent podnet-proxy; do
#       docker buildx build --target $image --platform linux/amd64,linux/arm64 --build-arg VERSION=$(git describe --tags --always) \
#           --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) --output type=image,name=REGISTRY/$image,push=true,rewrite-timestamp=true .
#   done
#
# The same commit gives the same files: the toolchain by version, modules by go.sum, packages by lock, times by SOURCE_DATE_EPOCH.
ARG GO_VERSION=1.26.8
FROM --platform=$BUILDPLATFORM golang:${GO_VERSION}-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETARCH
ARG VERSION=unknown
RUN CGO_ENABLED=0 GOOS=linux GOARCH=$TARGETARCH GOFLAGS=-mod=readonly \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /build/ ./cmd/podnet-agent ./cmd/podnet-cni ./cmd/podnet-proxy && \
    mkdir -p /image/podnet-agent /image/podnet-proxy && mv /build/podnet-agent /build/podnet-cni /image/podnet-agent/ && mv /build/podnet-proxy /image/podnet-proxy/
RUN dpkg --add-architecture "$TARGETARCH" && apt-get update -qq && mkdir /debs && cd /debs && \
    awk -v arch="$TARGETARCH" '$1 == arch {print $2 ":" $1 "=" $3}' /src/deploy/image/*.lock | sort -u | xargs apt-get download -qq && \
    cd /src && go run ./deploy/image -arch "$TARGETARCH" -debs /debs -lock deploy/image/nft.lock -out /image/podnet-agent && \
    go run ./deploy/image -arch "$TARGETARCH" -debs /debs -lock deploy/image/iptables.lock -out /image/podnet-proxy
ARG SOURCE_DATE_EPOCH=0
RUN install -D -m 0644 LICENSE /image/podnet-agent/LICENSE && install -D -m 0644 LICENSE /image/podnet-proxy/LICENSE && \
    find /image -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

FROM scratch AS podnet-proxy
COPY --from=build /image/podnet-proxy/ /
ENV PATH=/usr/sbin
ENTRYPOINT ["/podnet-proxy"]

FROM scratch AS podnet-agent
COPY --from=build /image/podnet-agent/ /
ENV PATH=/usr/sbin
ENTRYPOINT ["/podnet-agent"]
