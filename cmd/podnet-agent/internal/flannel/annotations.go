package flannel

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/podnet/podnet/internal/peers"
	"github.com/podnet/podnet/rtnl"
)

// DefaultPrefix is where flannel's annotations are unless it is told otherwise.
const DefaultPrefix = "flannel.alpha.coreos.com"

// MaxValue is the size of the longest annotation that is looked at. Flannel's longest, with a WireGuard key, has about 100 bytes.
const MaxValue = 1024

// Backend types that podnet has too.
const (
	VXLAN  = "vxlan"
	HostGW = "host-gw"
	Alloc  = "alloc"
)

// Keys are the keys of the annotations.
type Keys struct {
	Prefix      string // with what divides it from a name: "/", or "-" at its end
	Managed     string
	BackendType string
	families    [2]familyKeys
}

type familyKeys struct{ data, publicIP, overwrite, nodePublicIP string }

// prefixFormat is what flannel allows for --kube-annotation-prefix, completed: a domain, a slash, and a beginning of names.
var prefixFormat = regexp.MustCompile(`^(?:[a-z0-9_-]+\.)+[a-z0-9_-]+/(?:[a-z0-9_-]+-)?$`)

// NewKeys returns the keys that flannel derives from a prefix such as "flannel.alpha.coreos.com" or "example.com/cluster-a".
func NewKeys(prefix string) (Keys, error) {
	p := prefix
	if !strings.Contains(p, "/") {
		p += "/"
	}
	if !strings.HasSuffix(p, "/") && !strings.HasSuffix(p, "-") {
		p += "-"
	}
	if len(p) > 253 || !prefixFormat.MatchString(p) {
		return Keys{}, fmt.Errorf("annotation prefix %q: want a domain, or domain/name of lower case letters, digits, '-' and '_', such as %s", short(prefix), DefaultPrefix)
	}
	k := Keys{Prefix: p, Managed: p + "kube-subnet-manager", BackendType: p + "backend-type"}
	for i, v := range []string{"", "v6"} {
		data := "backend-data"
		if v != "" {
			data = "backend-v6-data"
		}
		k.families[i] = familyKeys{p + data, p + "public-ip" + v, p + "public-ip" + v + "-overwrite", p + "node-public-ip" + v}
	}
	return k, nil
}

// Annotations are what the annotations of one node say.
type Annotations struct {
	Managed     bool   // an agent of flannel or podnet has published here
	BackendType string // "" = none
	families    [2]Family
}

// Family is what they say of one address family.
type Family struct {
	Data         Data
	PublicIP     netip.Addr // where the node is reached
	Overwrite    netip.Addr // what the administrator wants published instead
	NodePublicIP netip.Addr // what the administrator wants to be sent from
}

// Data is what a backend says of a node: with VXLAN its end of the tunnel, with host-gw nothing ("null").
type Data struct {
	Present bool
	VNI     uint32 // 0: an old flannel, which did not say
	MAC     rtnl.MAC
}

// Of returns what is said of a family.
func (a *Annotations) Of(f rtnl.Family) *Family { return &a.families[index(f)] }

func index(f rtnl.Family) int {
	if f == rtnl.IPv6 {
		return 1
	}
	return 0
}

var families = [2]rtnl.Family{rtnl.IPv4, rtnl.IPv6}

// Error is a fault of one annotation.
type Error struct {
	Key, Value string
	Err        error
}

func (e *Error) Error() string {
	return fmt.Sprintf("annotation %s %q: %v", e.Key, short(e.Value), e.Err)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// short cuts what somebody wrote to what fits a log line.
func short(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

var backendFormat = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Decode reads what concerns flannel among the annotations of one node. If there are faults, what is not faulty is returned with them.
func (k Keys) Decode(annotations map[string]string) (Annotations, error) {
	var a Annotations
	var faults []error
	read := func(key string, use func(value string) error) {
		value := annotations[key]
		if value == "" {
			return
		}
		var err error
		if len(value) > MaxValue {
			err = fmt.Errorf("%d bytes or more: want at most %d", len(value), MaxValue)
		} else {
			err = use(value)
		}
		if err != nil {
			faults = append(faults, &Error{key, value, err})
		}
	}
	read(k.Managed, func(v string) error {
		if a.Managed = v == "true"; !a.Managed && v != "false" {
			return errors.New("want true or false")
		}
		return nil
	})
	read(k.BackendType, func(v string) error {
		if !backendFormat.MatchString(v) {
			return errors.New("want the name of a backend, such as vxlan or host-gw")
		}
		a.BackendType = v
		return nil
	})
	for i, f := range families {
		keys, have := k.families[i], &a.families[i]
		read(keys.data, func(v string) (err error) {
			have.Data, err = decodeData(v, a.BackendType)
			return err
		})
		for _, ip := range []struct {
			key string
			to  *netip.Addr
		}{{keys.publicIP, &have.PublicIP}, {keys.overwrite, &have.Overwrite}, {keys.nodePublicIP, &have.NodePublicIP}} {
			read(ip.key, func(v string) (err error) {
				*ip.to, err = decodeAddr(v, f)
				return err
			})
		}
	}
	return a, errors.Join(faults...)
}

// decodeAddr reads an address of a family. Flannel writes 0.0.0.0 for a node that has no IPv4 address (host-gw with IPv6 only).
func decodeAddr(text string, f rtnl.Family) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || rtnl.FamilyOf(a) != f || a.Is4In6() {
		return netip.Addr{}, fmt.Errorf("want an address of IPv%d", f)
	}
	if a.IsUnspecified() {
		return netip.Addr{}, nil
	}
	if err := peers.CheckAddr(a); err != nil {
		return netip.Addr{}, err
	}
	return a, nil
}

// decodeData reads the backend data of VXLAN. That of other backends is theirs.
func decodeData(text, backend string) (Data, error) {
	if text == "null" || backend != VXLAN && backend != "" {
		return Data{Present: true}, nil
	}
	var raw struct {
		VNI     *int64
		VtepMAC *string
	}
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return Data{}, errors.New(`want JSON such as {"VNI":1,"VtepMAC":"02:00:0a:f4:01:00"}`)
	}
	d := Data{Present: true}
	if raw.VtepMAC == nil {
		return Data{}, errors.New("VtepMAC: missing")
	}
	var err error
	if d.MAC, err = rtnl.ParseMAC(*raw.VtepMAC); err != nil || d.MAC.IsZero() || d.MAC.IsMulticast() {
		return Data{}, fmt.Errorf("VtepMAC %q: want a unicast MAC address of 6 bytes", short(*raw.VtepMAC))
	}
	if raw.VNI != nil {
		if *raw.VNI < 0 || *raw.VNI >= 1<<24 {
			return Data{}, fmt.Errorf("VNI %d: want 1 to %d", *raw.VNI, 1<<24-1)
		}
		d.VNI = uint32(*raw.VNI)
	}
	return d, nil
}

// Encode returns the annotations that an agent publishes. What the administrator writes is not among them. The values are byte for
// byte those that flannel writes, so that neither finds something to change in what the other wrote.
func (k Keys) Encode(a Annotations) map[string]string {
	out := map[string]string{k.BackendType: a.BackendType, k.Managed: "false"}
	if a.Managed {
		out[k.Managed] = "true"
	}
	for i := range families {
		keys, have := k.families[i], a.families[i]
		if have.Data.Present {
			out[keys.data] = encodeData(have.Data)
		}
		if have.PublicIP.IsValid() {
			out[keys.publicIP] = have.PublicIP.String()
		}
	}
	return out
}

func encodeData(d Data) string {
	if d.MAC.IsZero() {
		return "null"
	}
	return fmt.Sprintf(`{"VNI":%d,"VtepMAC":"%s"}`, d.VNI, d.MAC)
}

// Published returns the keys of all annotations that an agent publishes, whatever its families: what it may have to take back.
func (k Keys) Published() []string {
	keys := []string{k.Managed, k.BackendType}
	for _, f := range k.families {
		keys = append(keys, f.data, f.publicIP)
	}
	return keys
}
