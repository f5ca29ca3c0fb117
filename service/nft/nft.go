package nft

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"

	"github.com/podnet/podnet/service"
)

// Options are the settings of a Dataplane. The zero Options work.
type Options struct {
	// Name tells several dataplanes in one network namespace apart: each has tables of its own, "podnet-service" followed by a hash of the name. "" is "podnet-service".
	Name string

	// MasqueradeMark is the bit of the packet mark (meta mark, skb->mark) that stands between the choice of an endpoint and the translation of the source. It is cleared when it is
	// used. 0 is 0x4000, as with kube-proxy. It is no API: nobody else may rely on it, and everybody else must leave it alone.
	MasqueradeMark uint32

	// AffinityClients is how many clients of Services with session affinity are remembered, per family. Further ones are served without affinity. 0 is 262144.
	// The kernel needs about 200 bytes for each that is there.
	AffinityClients uint32

	// Logger gets a line from Watch when somebody else changed the tables. nil discards.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.MasqueradeMark == 0 {
		o.MasqueradeMark = 0x4000
	}
	if o.AffinityClients == 0 {
		o.AffinityClients = 1 << 18
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// tableName returns the name of the tables of an instance. Hashes of different names differ as far as 48 bits can.
func tableName(instance string) string {
	const name = "podnet-service"
	if instance == "" {
		return name
	}
	sum := sha256.Sum256([]byte(instance))
	return name + "-" + hex.EncodeToString(sum[:6])
}

// capabilities are the same everywhere.
func capabilities() service.Capabilities {
	return service.Capabilities{Name: "nftables", Protocols: []service.Protocol{service.TCP, service.UDP, service.SCTP}}
}
