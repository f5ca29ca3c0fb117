package filestore

import (
	"bytes"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/ipam/ipamtest"
)

var testBoot = bootID{1, 2, 3}

var comparePrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func mustEncode(t testing.TB, slot int, r ipam.Record) [slotSize]byte {
	t.Helper()
	var b [slotSize]byte
	if err := encodeSlot(&b, slot, r, testBoot); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSlotStates(t *testing.T) {
	good := mustEncode(t, 7, ipamtest.Record(1))
	for _, test := range []struct {
		name  string
		slot  int
		boot  bootID
		bytes []byte
		want  slotState
	}{
		{"valid", 7, testBoot, good[:], slotValid},
		{"zeros", 7, testBoot, make([]byte, slotSize), slotEmpty},
		{"of another boot", 7, bootID{9}, good[:], slotEmpty},
		{"in the wrong place", 8, testBoot, good[:], slotBad},
		{"second half missing", 7, testBoot, append(bytes.Clone(good[:128]), make([]byte, 128)...), slotBad},
		{"first half missing", 7, testBoot, append(make([]byte, 128), good[128:]...), slotBad},
		{"ones", 7, testBoot, bytes.Repeat([]byte{0xff}, slotSize), slotBad},
	} {
		if _, got := (&decoder{boot: test.boot}).decode(test.bytes, test.slot); got != test.want {
			t.Errorf("%s: state %d, want %d", test.name, got, test.want)
		}
	}
	for i := range slotSize * 8 { // every single bit is covered
		b := good
		b[i/8] ^= 1 << (i % 8)
		if _, got := (&decoder{boot: testBoot}).decode(b[:], 7); got != slotBad {
			t.Errorf("bit %d turned around: state %d", i, got)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	owner := ipam.Owner{ContainerID: "a", Ifname: "eth0"}
	p := netip.MustParsePrefix("10.0.0.1/24")
	for name, r := range map[string]ipam.Record{
		"no owner":       {Addrs: []netip.Prefix{p}},
		"long owner":     {Owner: ipam.Owner{ContainerID: strings.Repeat("x", 129), Ifname: "eth0"}, Addrs: []netip.Prefix{p}},
		"no address":     {Owner: owner},
		"five addresses": {Owner: owner, Addrs: []netip.Prefix{p, p, p, p, p}},
		"zero address":   {Owner: owner, Addrs: []netip.Prefix{{}}},
		"IPv4 in IPv6":   {Owner: owner, Addrs: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.1"), 120)}},
	} {
		var b [slotSize]byte
		if err := encodeSlot(&b, 0, r, testBoot); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzSlot: no bytes make the decoder panic, and what it takes for valid it writes again as the same bytes.
func FuzzSlot(f *testing.F) {
	for i, r := range []ipam.Record{
		ipamtest.Record(1),
		{Owner: ipam.Owner{ContainerID: "a", Ifname: "e"}, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}, Static: true},
		{Owner: ipam.Owner{ContainerID: strings.Repeat("x", 128), Ifname: "abcdefghijklmno"}, Addrs: []netip.Prefix{
			netip.MustParsePrefix("::1/0"), netip.MustParsePrefix("fd00::1/128"), netip.MustParsePrefix("10.0.0.1/0"), netip.MustParsePrefix("fd00::2/64"),
		}, Released: time.Unix(1, 1)},
	} {
		b := mustEncode(f, i, r)
		f.Add(b[:], i, false)
	}
	f.Add(make([]byte, slotSize), 0, true)
	f.Add(bytes.Repeat([]byte{0xff}, slotSize), 0, true)
	f.Fuzz(func(t *testing.T, data []byte, slot int, seal bool) {
		var b [slotSize]byte
		copy(b[:], data)
		if seal { // with a good sum the fuzzer gets behind it
			reseal(&b, slot)
		}
		d := decoder{boot: testBoot}
		r, state := d.decode(b[:], slot)
		if state != slotValid {
			return
		}
		again := mustEncode(t, slot, r)
		r2, state := d.decode(again[:], slot)
		if state != slotValid || cmp.Diff(r, r2, comparePrefix) != "" {
			t.Fatalf("read %+v, wrote it, and read %+v (state %d)", r, r2, state)
		}
	})
}

func TestHeader(t *testing.T) {
	h := header{schema: 1, minReader: 1, bad: 3, boot: testBoot}
	b := h.encode()
	if got, ok := decodeHeader(b); !ok || got != h || len(b) != headerSize {
		t.Errorf("%+v became %+v, %v, in %d bytes", h, got, ok, len(b))
	}
	for i := range headerUsed {
		c := bytes.Clone(b)
		c[i] ^= 4
		if _, ok := decodeHeader(c); ok {
			t.Errorf("byte %d turned around, and still a header", i)
		}
	}
	if _, ok := decodeHeader(b[:headerUsed-1]); ok {
		t.Error("a header cut off is a header")
	}
}

func TestReadBootID(t *testing.T) {
	if _, err := os.Stat(defaultBootIDPath); err != nil {
		t.Skipf("needs Linux: %v", err)
	}
	if id, err := readBootID(defaultBootIDPath); err != nil || id == (bootID{}) {
		t.Errorf("boot id %x, %v", id, err)
	}
}
