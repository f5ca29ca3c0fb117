# The image of podnet-agent: two static Go binaries, and nft with its libraries from Debian, at the versions and checksums of deploy/image/nft.lock. No shell, no
# package manager. Nothing is emulated for another architecture.
#
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=$(git describe --tags --always) \
#       --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) --output type=image,name=...,push=true,rewrite-timestamp=true .
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
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /image/ ./cmd/podnet-agent ./cmd/podnet-cni
RUN dpkg --add-architecture "$TARGETARCH" && apt-get update -qq && mkdir /debs && cd /debs && \
    awk -v arch="$TARGETARCH" '$1 == arch {print $2 ":" $1 "=" $3}' /src/deploy/image/nft.lock | xargs apt-get download -qq && \
    cd /src && go run ./deploy/image -arch "$TARGETARCH" -debs /debs -out /image
ARG SOURCE_DATE_EPOCH=0
RUN install -D -m 0644 LICENSE /image/LICENSE && \
    find /image -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

FROM scratch
COPY --from=build /image/ /
ENV PATH=/usr/sbin
ENTRYPOINT ["/podnet-agent"]
