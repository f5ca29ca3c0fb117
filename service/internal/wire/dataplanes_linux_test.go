package wire

import (
	"testing"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/internal/flowtable"
	"github.com/podnet/podnet/service/nft"
	"github.com/podnet/podnet/service/servicetest"
)

// nftables returns a dataplane in the node.
func nftables(t testing.TB, w *Wire) *nft.Dataplane {
	t.Helper()
	k, err := nft.Open(w.Netns().Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return nft.New(k, nft.Options{})
}

// TestNFTFlows: the flow tables with real packets through the rules of service/nft. All cases run on one node, each cleans up behind it.
func TestNFTFlows(t *testing.T) {
	w := New(t)
	flowtable.Run(t, flowtable.Options{Agrees: Agrees}, func(t testing.TB) servicetest.Subject { return w.Subject(t, nftables(t, w)) })
}

// TestNFTRandom: random states with real packets.
func TestNFTRandom(t *testing.T) {
	w := New(t)
	o := servicetest.RandomOptions{States: 200, Agrees: Agrees, Ask: Asks}
	if testing.Short() {
		o.States = 40
	}
	servicetest.RunRandom(t, o, func(t testing.TB) servicetest.Subject { return w.Subject(t, nftables(t, w)) })
}

// TestNFTContract: the contract of the dataplanes on the real kernel. The packets of each part's steps are the fake kernel's business (service/nft), the counts and writes are this one's.
func TestNFTContract(t *testing.T) {
	servicetest.Contract(t, func(t testing.TB) servicetest.Kernel {
		w := New(t)
		return servicetest.Kernel{
			New:   func(t testing.TB) service.Dataplane { return nftables(t, w) },
			Flush: func(t testing.TB) { load(t, w.Netns(), "flush ruleset") },
		}
	})
}
