package filestore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/podnet/podnet/ipam"
)

const (
	boot1 = "11111111-2222-3333-4444-555555555555\n"
	boot2 = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee\n"
)

var bg = context.Background()

// bootFile writes a boot id for Options.BootIDPath.
func bootFile(t testing.TB, id string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "boot_id")
	if err := os.WriteFile(path, []byte(id), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustOpen(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("needs Linux: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// noSync is the system without its slow part, for tests that look at something else than the disk.
type noSync struct{ fileOps }

func (noSync) fdatasync(int) error { return nil }
func (noSync) fsync(int) error     { return nil }

func quickOpen(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	ops, err := systemOps()
	if err != nil {
		t.Skipf("needs Linux: %v", err)
	}
	s, err := open(dir, o, noSync{ops})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// stateDir names a directory that the store has to make.
func stateDir(t testing.TB) string { return filepath.Join(t.TempDir(), "state") }

// podConfig is dual-stack with room for 65,000.
var podConfig = ipam.PodConfig{RangeSets: [][]ipam.Range{
	{{Subnet: netip.MustParsePrefix("10.0.0.0/16")}},
	{{Subnet: netip.MustParsePrefix("fd00::/64")}},
}}

func mustAllocator(t testing.TB, s ipam.Store, cfg ipam.PodConfig) *ipam.PodAllocator {
	t.Helper()
	p, err := ipam.NewPodAllocator(s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func ownerN(n int) ipam.Owner { return ipam.Owner{ContainerID: fmt.Sprintf("c%d", n), Ifname: "eth0"} }

func mustAllocate(t testing.TB, p *ipam.PodAllocator, o ipam.Owner) netip.Addr {
	t.Helper()
	got, err := p.Allocate(bg, o, ipam.Request{})
	if err != nil {
		t.Fatal(err)
	}
	return got[0].Prefix.Addr()
}

// leasesOf reads the store as a new process would.
func leasesOf(t testing.TB, dir string, o Options) map[ipam.Owner]netip.Addr {
	t.Helper()
	s := quickOpen(t, dir, o)
	defer s.Close()
	leases, err := mustAllocator(t, s, podConfig).Leases(bg)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[ipam.Owner]netip.Addr)
	holder := make(map[netip.Addr]ipam.Owner)
	for _, l := range leases {
		got[l.Owner] = l.Addresses[0].Prefix.Addr()
		for _, a := range l.Addresses {
			if other, taken := holder[a.Prefix.Addr()]; taken {
				t.Errorf("%s is held by %s and %s", a.Prefix, other, l.Owner)
			}
			holder[a.Prefix.Addr()] = l.Owner
		}
	}
	return got
}

// mustBeEmptyAfterRelease proves that nothing leaks: with all owners released, every address is free.
func mustBeEmptyAfterRelease(t testing.TB, dir string, o Options) {
	t.Helper()
	s := quickOpen(t, dir, o)
	defer s.Close()
	p := mustAllocator(t, s, podConfig)
	if _, err := p.Retain(bg, nil); err != nil {
		t.Fatal(err)
	}
	st, err := p.Stats(bg)
	if err != nil {
		t.Fatal(err)
	}
	if st.Leases != 0 || st.RangeSets[0].Used != 0 || st.RangeSets[1].Used != 0 {
		t.Errorf("after the release of all: %+v", st)
	}
}

func stats(t testing.TB, s *Store) Stats {
	t.Helper()
	st, err := s.Stats(bg)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

type (
	addr   = netip.Addr
	prefix = netip.Prefix
)

func v4(i int) prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 16)
}

func v6(i int) prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}), 64)
}

// reseal makes a slot's number, boot and checksum good.
func reseal(b *[slotSize]byte, slot int) {
	binary.LittleEndian.PutUint32(b[offSlot:], uint32(slot))
	copy(b[offBoot:], testBoot[:])
	binary.LittleEndian.PutUint32(b[offSum:], crc32.Checksum(b[offSlot:], castagnoli))
}
