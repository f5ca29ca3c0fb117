// Package netconf reads the network configuration of the cluster in the format of flannel's net-conf.json.
//
//	{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48",
//	 "NonMasqueradeCIDRs": ["10.0.0.0/8"],
//	 "Backend": {"Type": "vxlan", "VNI": 1, "Port": 8472, "DirectRouting": true}}
//
// What it does: [Parse] and [Read] check everything at once. Keys are matched as flannel does (encoding/json, case ignored). SubnetLen and its like
// are accepted and mean nothing, as in flannel's Kubernetes mode: who hands out podCIDRs decides their size. Any other unknown key is an error.
//
// What it owns, what it touches: nothing.
//
// Failure: an error that names every fault with its key, its value and what is allowed.
//
// Privileges: to read the file. Concurrency: values; nothing is shared.
package netconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/podnet/podnet/internal/peers"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/vxlan"
)

const maxSize = 1 << 20

// Config is the network configuration.
type Config struct {
	Networks           []netip.Prefix // of the enabled families, IPv4 first
	NonMasqueradeCIDRs []netip.Prefix
	Backend            Backend
	NFTables           bool // masquerade with nftables, nothing else; false: with what the node has
	// Notes name the keys that are there and mean nothing here.
	Notes []string
}

// The types of backends.
const (
	VXLAN  = "vxlan"
	HostGW = "host-gw"
	Alloc  = "alloc" // no backend: someone else brings the packets to the nodes. Also spelled "none".
)

// Backend says how packets reach the pods of other nodes.
type Backend struct {
	Type          string
	VNI           uint32
	Port          uint16
	MTU           int // 0 = from the uplink
	DirectRouting bool
}

// Families returns the enabled address families, in the order of Networks.
func (c Config) Families() []rtnl.Family {
	families := make([]rtnl.Family, len(c.Networks))
	for i, n := range c.Networks {
		families[i] = rtnl.FamilyOf(n.Addr())
	}
	return families
}

// Network returns the network of a family; the zero Prefix if it is not enabled.
func (c Config) Network(f rtnl.Family) netip.Prefix {
	for _, n := range c.Networks {
		if rtnl.FamilyOf(n.Addr()) == f {
			return n
		}
	}
	return netip.Prefix{}
}

type file struct {
	Network, IPv6Network string
	EnableIPv4           *bool
	EnableIPv6           bool
	NonMasqueradeCIDRs   []string
	Backend              *backendFile

	EnableNFTables bool

	// Of flannel, without meaning here: see Notes.
	SubnetLen, SubnetMin, SubnetMax, IPv6SubnetLen, IPv6SubnetMin, IPv6SubnetMax any
}

type backendFile struct {
	Type           string
	VNI, Port, MTU *int64
	DirectRouting  bool
	GBP, Learning  bool
	// Of flannel on Windows, without meaning here.
	Name, MacPrefix any
}

// Read reads a file.
func Read(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return Config{}, err
	}
	return Parse(text)
}

// Parse reads the text of a file.
func Parse(text []byte) (Config, error) {
	if len(text) > maxSize {
		return Config{}, fmt.Errorf("more than %d bytes", maxSize)
	}
	var f file
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return Config{}, decodeError(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Config{}, errors.New("more than one JSON value: want one object")
	}
	return f.config()
}

// jsonType names in the words of JSON what a field takes.
var jsonType = map[reflect.Kind]string{
	reflect.String: "a string", reflect.Bool: "true or false", reflect.Int64: "a whole number", reflect.Slice: "a list", reflect.Struct: "an object",
}

func decodeError(err error) error {
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) && mismatch.Field == "" {
		return fmt.Errorf("a JSON %s: want an object", mismatch.Value)
	}
	if errors.As(err, &mismatch) {
		return fmt.Errorf("%s: a JSON %s: want %s", mismatch.Field, mismatch.Value, jsonType[mismatch.Type.Kind()])
	}
	if key, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fmt.Errorf("%s: unknown key: want Network, IPv6Network, EnableIPv4, EnableIPv6, NonMasqueradeCIDRs, or Backend with Type, VNI, Port, MTU, DirectRouting", key)
	}
	return fmt.Errorf("json: %w", err)
}

// notes says which keys are without effect.
func (f file) notes() (notes []string) {
	note := func(why string, keys map[string]any) {
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			if keys[key] != nil {
				notes = append(notes, key+": without effect: "+why)
			}
		}
	}
	note("who hands out podCIDRs (the controller manager) decides their size and place, as in flannel's Kubernetes mode", map[string]any{
		"SubnetLen": f.SubnetLen, "SubnetMin": f.SubnetMin, "SubnetMax": f.SubnetMax,
		"IPv6SubnetLen": f.IPv6SubnetLen, "IPv6SubnetMin": f.IPv6SubnetMin, "IPv6SubnetMax": f.IPv6SubnetMax,
	})
	if f.Backend != nil {
		note("for Windows nodes", map[string]any{"Backend.Name": f.Backend.Name, "Backend.MacPrefix": f.Backend.MacPrefix})
	}
	return notes
}

func (f file) config() (Config, error) {
	c := Config{NFTables: f.EnableNFTables, Notes: f.notes()}
	var faults []error
	networks := []struct {
		key, value string
		enable     string
		enabled    bool
		family     rtnl.Family
		example    string
	}{
		{"Network", f.Network, "EnableIPv4", f.EnableIPv4 == nil || *f.EnableIPv4, rtnl.IPv4, "10.244.0.0/16"},
		{"IPv6Network", f.IPv6Network, "EnableIPv6", f.EnableIPv6, rtnl.IPv6, "fd00:10:244::/48"},
	}
	for _, n := range networks {
		switch {
		case !n.enabled:
		case n.value == "":
			faults = append(faults, fmt.Errorf("%s: not set though %s is true: want a CIDR such as %s", n.key, n.enable, n.example))
		default:
			p, err := parseNetwork(n.value, n.family)
			if err != nil {
				faults = append(faults, fmt.Errorf("%s %q: %w such as %s", n.key, n.value, err, n.example))
				continue
			}
			c.Networks = append(c.Networks, p)
		}
	}
	if !networks[0].enabled && !networks[1].enabled {
		faults = append(faults, errors.New("EnableIPv4 and EnableIPv6: both false: want one family at least"))
	}
	for i, s := range f.NonMasqueradeCIDRs {
		p, err := netip.ParsePrefix(s)
		if err != nil || p != p.Masked() || p.Bits() == 0 || p.Addr().Is4In6() {
			faults = append(faults, fmt.Errorf("NonMasqueradeCIDRs[%d] %q: want a CIDR without host bits, such as 192.0.2.0/24", i, s))
			continue
		}
		c.NonMasqueradeCIDRs = append(c.NonMasqueradeCIDRs, p)
	}
	backend, err := f.Backend.backend(f.EnableIPv6)
	c.Backend = backend
	if err = errors.Join(errors.Join(faults...), err); err != nil {
		return Config{}, err
	}
	return c, nil
}

func parseNetwork(s string, f rtnl.Family) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || rtnl.FamilyOf(p.Addr()) != f {
		return p, fmt.Errorf("want an IPv%d CIDR", f)
	}
	if err := peers.CheckPodCIDR(p); err != nil {
		return p, errors.New(strings.TrimPrefix(err.Error(), p.String()+": ") + ": want a CIDR")
	}
	return p, nil
}

// backend fills in flannel's defaults. A missing Backend is vxlan, as flannel's documentation says.
func (b *backendFile) backend(ipv6 bool) (Backend, error) {
	if b == nil {
		b = &backendFile{}
	}
	out := Backend{Type: strings.ToLower(b.Type), VNI: vxlan.DefaultVNI, Port: vxlan.DefaultPort, DirectRouting: b.DirectRouting}
	leastMTU := int64(576) // RFC 791: what every host must accept
	if ipv6 {
		leastMTU = 1280 // RFC 8200: below it the kernel turns IPv6 off
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("Backend."+format, args...)) }
	switch out.Type {
	case "":
		out.Type = VXLAN
	case "none":
		out.Type = Alloc
	case VXLAN, HostGW, Alloc:
	default:
		fault("Type %q: want vxlan, host-gw, or alloc (none)", b.Type)
	}
	for _, n := range []struct {
		key      string
		value    *int64
		min, max int64
		zero     string
		set      func(int64)
	}{
		{"VNI", b.VNI, 1, 1<<24 - 1, "", func(v int64) { out.VNI = uint32(v) }},
		{"Port", b.Port, 1, 65535, "0 (8472) or ", func(v int64) { out.Port = uint16(v) }},
		{"MTU", b.MTU, leastMTU, 65535, "0 (from the uplink) or ", func(v int64) { out.MTU = int(v) }},
	} {
		switch {
		case n.value == nil || *n.value == 0 && n.zero != "":
		case *n.value < n.min || *n.value > n.max:
			fault("%s %d: want %s%d to %d", n.key, *n.value, n.zero, n.min, n.max)
		default:
			n.set(*n.value)
		}
	}
	for _, k := range []struct {
		key       string
		set       bool
		supported bool
	}{
		{"GBP", b.GBP, false},
		{"Learning", b.Learning, false},
		{"VNI", b.VNI != nil, out.Type == VXLAN},
		{"Port", b.Port != nil, out.Type == VXLAN},
		{"DirectRouting", b.DirectRouting, out.Type == VXLAN},
	} {
		if k.set && !k.supported {
			fault("%s: not supported with Type %q: leave it out", k.key, out.Type)
		}
	}
	return out, errors.Join(faults...)
}
