package subnetenv

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var comparePrefixes = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func prefixes(words ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, w := range words {
		out = append(out, netip.MustParsePrefix(w))
	}
	return out
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       Env
	}{
		{
			name: "flannel IPv4",
			text: "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
			want: Env{Networks: prefixes("10.42.0.0/16"), Subnets: prefixes("10.42.0.1/24"), MTU: 1450, IPMasq: true},
		},
		{
			name: "dual-stack",
			text: "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.1/24\nFLANNEL_IPV6_NETWORK=2001:cafe:42::/56\n" +
				"FLANNEL_IPV6_SUBNET=2001:cafe:42::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n",
			want: Env{Networks: prefixes("10.42.0.0/16", "2001:cafe:42::/56"), Subnets: prefixes("10.42.0.1/24", "2001:cafe:42::1/64"), MTU: 1450},
		},
		{
			name: "IPv6 only",
			text: "FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true",
			want: Env{Networks: prefixes("fd00::/48"), Subnets: prefixes("fd00::1/64"), MTU: 1430, IPMasq: true},
		},
		{
			name: "comma list, comments, blank lines, spaces, CRLF, unknown keys, host bits in a network",
			text: "# by hand\r\n\r\n FLANNEL_NETWORK = 10.42.0.9/16 , 10.43.0.0/16,\r\nFLANNEL_SUBNET=10.42.0.1/24\r\nOTHER=a=b\r\nFLANNEL_MTU=0\r\nFLANNEL_IPMASQ=1\r\n",
			want: Env{Networks: prefixes("10.42.0.0/16", "10.43.0.0/16"), Subnets: prefixes("10.42.0.1/24"), IPMasq: true},
		},
		{
			name: "the last of a repeated key counts",
			text: "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.1/24\nFLANNEL_SUBNET=10.42.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
			want: Env{Networks: prefixes("10.42.0.0/16"), Subnets: prefixes("10.42.7.1/24"), MTU: 1450, IPMasq: true},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse([]byte(tc.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, comparePrefixes); diff != "" {
				t.Errorf("Env (-want +got):\n%s", diff)
			}
			again, err := Parse([]byte(got.String()))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, again, comparePrefixes); diff != "" {
				t.Errorf("written and read again (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseFaults(t *testing.T) {
	const rest = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
	for _, tc := range []struct{ name, text, want string }{
		{"a line without =", "FLANNEL_NETWORK\n", `line 1 "FLANNEL_NETWORK": want KEY=VALUE`},
		{"empty", "", "FLANNEL_MTU \"\": want a number of bytes\nFLANNEL_IPMASQ \"\": want true or false"},
		{"cut in the middle", rest[:len("FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.4")], "FLANNEL_SUBNET \"10.4\": want"},
		{"no network", "FLANNEL_SUBNET=10.42.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n", "FLANNEL_NETWORK and FLANNEL_IPV6_NETWORK: neither is set"},
		{"no subnet", "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n", "FLANNEL_SUBNET and FLANNEL_IPV6_SUBNET: neither is set"},
		{"IPv6 under an IPv4 key", rest + "FLANNEL_SUBNET=fd00::1/64\n", `FLANNEL_SUBNET "fd00::1/64": want an IPv4 CIDR such as 10.244.1.1/24`},
		{"IPv4 under an IPv6 key", rest + "FLANNEL_IPV6_SUBNET=10.0.0.1/24\n", `FLANNEL_IPV6_SUBNET "10.0.0.1/24": want an IPv6 CIDR such as fd00:244::1/64`},
		{"IPv4-mapped", rest + "FLANNEL_IPV6_SUBNET=::ffff:10.0.0.1/120\n", "IPv4-mapped IPv6 address"},
		{"everything", rest + "FLANNEL_SUBNET=0.0.0.0/0\n", "subnet 0.0.0.0/0: covers every address"},
		{"MTU no number", rest + "FLANNEL_MTU=big\n", `FLANNEL_MTU "big": want a number of bytes`},
		{"MTU too big", rest + "FLANNEL_MTU=65536\n", "FLANNEL_MTU 65536: want 0 (the kernel's default) to 65535"},
		{"MTU negative", rest + "FLANNEL_MTU=-1\n", "FLANNEL_MTU -1: want 0"},
		{"IPMASQ", rest + "FLANNEL_IPMASQ=maybe\n", `FLANNEL_IPMASQ "maybe": want true or false`},
		{"too long", strings.Repeat("#\n", maxSize), "want at most 65536"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse([]byte(tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestWriteRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "podnet", "subnet.env")
	if _, err := Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading a missing file: %v, want fs.ErrNotExist", err)
	}
	for mtu := 1400; mtu < 1403; mtu++ {
		want := Env{Networks: prefixes("10.42.0.0/16"), Subnets: prefixes("10.42.3.1/24"), MTU: mtu, IPMasq: true}
		if err := Write(path, want); err != nil {
			t.Fatal(err)
		}
		got, err := Read(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, comparePrefixes); diff != "" {
			t.Errorf("Env (-want +got):\n%s", diff)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, %v: want 0644", info.Mode(), err)
	}
	if err := Write(path, Env{}); err == nil {
		t.Error("an empty Env was written")
	}
	if err := Write(filepath.Join(path, "below", "a-file"), Env{Networks: prefixes("10.42.0.0/16"), Subnets: prefixes("10.42.3.1/24")}); err == nil {
		t.Error("writing below a file succeeded")
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("directory holds %v, %v: want subnet.env only", entries, err)
	}
}

// TestWriteFailureKeepsOld makes the rename fail (the target is a directory that is not empty) and looks that nothing is left.
func TestWriteFailureKeepsOld(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "subnet.env")
	if err := os.MkdirAll(filepath.Join(path, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, Env{Networks: prefixes("10.42.0.0/16"), Subnets: prefixes("10.42.3.1/24")}); err == nil {
		t.Fatal("renaming onto a directory succeeded")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("directory holds %v, %v: want no temporary file", entries, err)
	}
}

// FuzzParse looks that no text makes Parse panic, and that what was accepted survives being written and read.
func FuzzParse(f *testing.F) {
	f.Add([]byte("FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"))
	f.Add([]byte("FLANNEL_NETWORK=10.0.0.0/8,11.0.0.0/8\nFLANNEL_IPV6_SUBNET=fd00::1/64\nFLANNEL_MTU=0\nFLANNEL_IPMASQ=F\n"))
	f.Add([]byte("FLANNEL_NETWORK\n="))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse([]byte(e.String()))
		if err != nil {
			t.Fatalf("%q was accepted, what it was written as was not: %v", text, err)
		}
		if diff := cmp.Diff(e, again, comparePrefixes); diff != "" {
			t.Errorf("(-first +second):\n%s", diff)
		}
	})
}

func Example() {
	e, err := Parse([]byte("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(e.Subnets, e.MTU)
	fmt.Print(e)
	// Output:
	// [10.244.1.1/24] 1450
	// FLANNEL_NETWORK=10.244.0.0/16
	// FLANNEL_SUBNET=10.244.1.1/24
	// FLANNEL_MTU=1450
	// FLANNEL_IPMASQ=true
}
