//go:build linux

package filestore_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/ipam/filestore"
)

// One process allocates, another one finds the lease and releases it.
func Example() {
	tmp, err := os.MkdirTemp("", "podnet")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	dir := filepath.Join(tmp, "cbr0")
	ctx := context.Background()
	config := ipam.PodConfig{RangeSets: [][]ipam.Range{{{Subnet: netip.MustParsePrefix("10.244.1.0/24")}}}}
	owner := ipam.Owner{ContainerID: "4f2a", Ifname: "eth0"}

	for _, process := range []string{"ADD", "DEL"} {
		store, err := filestore.Open(dir, filestore.Options{})
		if err != nil {
			log.Fatal(err)
		}
		pods, err := ipam.NewPodAllocator(store, config)
		if err != nil {
			log.Fatal(err)
		}
		addresses, err := pods.Allocate(ctx, owner, ipam.Request{}) // the same for the same owner
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(process, addresses[0].Prefix, "via", addresses[0].Gateway)
		if process == "DEL" {
			if err := pods.Release(ctx, owner); err != nil {
				log.Fatal(err)
			}
		}
		if err := store.Close(); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// ADD 10.244.1.2/24 via 10.244.1.1
	// DEL 10.244.1.2/24 via 10.244.1.1
}
