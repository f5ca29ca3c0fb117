package veth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/podnet/podnet/internal/check"
	"github.com/podnet/podnet/rtnl"
)

// Options say whose link this is. They are the identity of an attachment: a Config that changes, or is zero, is about the same link.
type Options struct {
	ContainerID string // who owns the link
	Ifname      string // the name of the end inside the pod, such as "eth0"

	// Netns is the path of the pod's network namespace (/run/netns/x, /proc/PID/ns/net). Removing a link needs none.
	Netns string

	// HostName is the name of the end on the host. "" = HostName(ContainerID, Ifname).
	HostName string
}

// HostName returns the name of the host end of an attachment: "veth" and 11 hex digits of a hash. It is a function of the owner, so that a DEL that
// comes without network namespace finds it, and two ADDs of one attachment meet in the kernel instead of making two links.
func HostName(containerID, ifname string) string {
	sum := sha256.Sum256([]byte(containerID + " " + ifname))
	return "veth" + hex.EncodeToString(sum[:])[:11]
}

const markPrefix = "podnet:veth "

// Mark returns the alias (ip link set alias) of the host end of an attachment.
func Mark(containerID, ifname string) string { return markPrefix + containerID + " " + ifname }

// ParseMark returns whose link the one with this alias is.
func ParseMark(alias string) (containerID, ifname string, ok bool) {
	rest, ok := strings.CutPrefix(alias, markPrefix)
	if !ok {
		return "", "", false
	}
	containerID, ifname, ok = strings.Cut(rest, " ")
	if !ok || checkID(containerID) != nil || check.Device(ifname) != nil {
		return "", "", false
	}
	return containerID, ifname, true
}

// maxID keeps the mark within the 255 bytes of an alias (IFALIASZ).
const maxID = 255 - len(markPrefix) - len(" ") - 15

func checkID(id string) error {
	ok := len(id) > 0 && len(id) <= maxID && isAlphanumeric(rune(id[0])) && !strings.ContainsFunc(id, func(r rune) bool {
		return !isAlphanumeric(r) && r != '_' && r != '.' && r != '-'
	})
	if !ok {
		return fmt.Errorf("%q: want 1 to %d letters, digits, '_', '.' or '-', beginning with a letter or digit", id, maxID)
	}
	return nil
}

func isAlphanumeric(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

// hostName returns the name of the host end.
func (o Options) hostName() string {
	if o.HostName != "" {
		return o.HostName
	}
	return HostName(o.ContainerID, o.Ifname)
}

// mac returns the MAC of one end: a function of the owner, given at birth, so that neither udev (MACAddressPolicy) nor a crash can make it another one.
func (o Options) mac(end string) rtnl.MAC {
	sum := sha256.Sum256([]byte(o.ContainerID + " " + o.Ifname + " " + end))
	mac := rtnl.MAC(sum[:6])
	mac[0] = mac[0]&^1 | 2 // unicast, locally administered
	return mac
}

// validate returns every fault of o. Without a pod end (cleanup) the netns is not looked at.
func (o Options) validate(withPod bool) (faults []error) {
	fault := faultsInto(&faults)
	fault("ContainerID", checkID(o.ContainerID))
	fault("Ifname", check.Device(o.Ifname))
	if o.HostName != "" {
		fault("HostName", check.Device(o.HostName))
	}
	if withPod && (!filepath.IsAbs(o.Netns) || filepath.Clean(o.Netns) != o.Netns) {
		fault("Netns", fmt.Errorf("%q: want the absolute path of a network namespace, such as /run/netns/pod1", o.Netns))
	}
	return faults
}

// Validate returns every fault of o.
func (o Options) Validate() error { return errors.Join(o.validate(o.Netns != "")...) }

// MACFor returns a MAC that is a function of a pod's address, so that whoever gets the address next has the same: 0a:58 and the IPv4 address, as the
// field has it since kubenet, or 0a:58 and a hash of the IPv6 address.
func MACFor(a netip.Addr) rtnl.MAC {
	if a = a.Unmap(); a.Is4() {
		b := a.As4()
		return rtnl.MAC{0x0a, 0x58, b[0], b[1], b[2], b[3]}
	}
	b := a.As16()
	sum := sha256.Sum256(b[:])
	return rtnl.MAC{0x0a, 0x58, sum[0], sum[1], sum[2], sum[3]}
}

// Config is a pod's link as it should be. The zero Config wants none: Apply then deletes the link if it is this owner's.
type Config struct {
	Bridge  string   // the bridge that the host end is a port of; "" = none, a link that is routed
	MTU     int      // of both ends; 0 = the kernel's default
	MAC     rtnl.MAC // of the end in the pod; zero = derived from the owner
	Hairpin bool     // the bridge may send a frame back to the pod it came from (a pod that reaches itself through its Service)

	Addrs []netip.Prefix // of the end in the pod

	// Quiet leaves out the announcement of the addresses (arp_notify, ndisc_notify), which every pod on the bridge has to look at: with 1,000
	// pods it is most of the time that Apply takes. It is right when no neighbour can know one of the addresses under another MAC: because MAC is
	// a function of the address (MACFor), or because the address was never in use.
	Quiet bool

	// Routes of the pod through this link: Dst, Gateway, Src, MTU, AdvMSS, Priority, Table, Scope, Onlink and Type unicast. Link is filled in; Protocol is
	// static unless given.
	Routes []rtnl.Route
}

func (c Config) isZero() bool {
	return c.Bridge == "" && c.MTU == 0 && c.MAC.IsZero() && !c.Hairpin && !c.Quiet && len(c.Addrs) == 0 && len(c.Routes) == 0
}

// Validate returns every fault of c. The zero Config is valid.
func (c Config) Validate() error { return errors.Join(c.validate()...) }

func (c Config) validate() (faults []error) {
	fault := faultsInto(&faults)
	if c.Bridge != "" {
		fault("Bridge", check.Device(c.Bridge))
	}
	if c.Hairpin && c.Bridge == "" {
		fault("Hairpin", errors.New("true: want a Bridge, whose port the host end is"))
	}
	fault("MTU", check.MTU(c.MTU, c.hasIPv6()))
	fault("MAC", check.MAC(c.MAC))
	seen := map[netip.Addr]bool{}
	for i, a := range c.Addrs {
		field := fmt.Sprintf("Addrs[%d]", i)
		if err := check.InterfaceAddr(a); err != nil {
			fault(field, err)
		} else if seen[a.Addr()] {
			fault(field, fmt.Errorf("%s: is there twice; want each address once", a))
		}
		seen[a.Addr()] = true
	}
	keys := map[routeKey]int{}
	for i, route := range c.Routes {
		field := fmt.Sprintf("Routes[%d]", i)
		if name, err := c.checkRoute(route); err != nil {
			fault(field+"."+name, err)
			continue
		}
		if first, ok := keys[keyOf(route)]; ok {
			fault(field+".Dst", fmt.Errorf("%s: has the table and priority of Routes[%d]; want another Priority, or one route", route.Dst, first))
			continue
		}
		keys[keyOf(route)] = i
	}
	return faults
}

func (c Config) hasIPv6() bool {
	for _, a := range c.Addrs {
		if a.Addr().Is6() {
			return true
		}
	}
	return false
}

// checkRoute returns the first fault of a route, and the field that it is in.
func (c Config) checkRoute(r rtnl.Route) (field string, err error) {
	switch {
	case !r.Dst.IsValid():
		return "Dst", errors.New("is missing: want a prefix such as 0.0.0.0/0")
	case r.Dst.Addr().Is4In6():
		return "Dst", fmt.Errorf("%s: want plain IPv4, not IPv4 in IPv6", r.Dst)
	case r.Dst != r.Dst.Masked():
		return "Dst", fmt.Errorf("%s: has host bits; want %s", r.Dst, r.Dst.Masked())
	case r.Dst.Addr().IsMulticast(), r.Dst.Addr().IsLoopback():
		return "Dst", fmt.Errorf("%s: want a unicast destination, not loopback or multicast", r.Dst)
	case !c.hasFamily(r.Dst.Addr()):
		return "Dst", fmt.Errorf("%s: want an address of the same family in Addrs", r.Dst)
	case r.Link != "":
		return "Link", fmt.Errorf("%q: want none; the route goes through the pod's link", r.Link)
	case r.Nexthop != 0:
		return "Nexthop", fmt.Errorf("%d: want a Gateway instead; a nexthop object is not made here", r.Nexthop)
	case r.Type != rtnl.Unicast:
		return "Type", fmt.Errorf("%d: want a unicast route", r.Type)
	case r.MTU != 0 && (r.MTU < 68 || r.MTU > 65535):
		return "MTU", fmt.Errorf("%d: want 68 to 65535, or 0 for the link's", r.MTU)
	case r.AdvMSS < 0 || r.AdvMSS > 65495:
		return "AdvMSS", fmt.Errorf("%d: want 1 to 65495, or 0 for the kernel's", r.AdvMSS)
	case r.Src.IsValid() && !c.isOwn(r.Src):
		return "Src", fmt.Errorf("%s: want one of Addrs", r.Src)
	case r.Gateway.IsValid():
		return c.checkGateway(r)
	case r.Onlink:
		return "Onlink", errors.New("true: want a Gateway")
	}
	return "", nil
}

func (c Config) checkGateway(r rtnl.Route) (field string, err error) {
	gw := r.Gateway
	switch {
	case gw.Is4In6():
		return "Gateway", fmt.Errorf("%s: want plain IPv4, not IPv4 in IPv6", gw)
	case gw.Zone() != "":
		return "Gateway", fmt.Errorf("%s: want an address without a zone", gw)
	case gw.Is4() != r.Dst.Addr().Is4():
		return "Gateway", fmt.Errorf("%s: want the address family of Dst %s", gw, r.Dst)
	case gw.IsUnspecified(), gw.IsMulticast(), gw.IsLoopback():
		return "Gateway", fmt.Errorf("%s: want a unicast address, not unspecified, loopback or multicast", gw)
	case c.isOwn(gw):
		return "Gateway", fmt.Errorf("%s: is the pod's own address; want that of a router", gw)
	case !r.Onlink && !c.reaches(gw):
		return "Gateway", fmt.Errorf("%s: want an address in the subnet of one of Addrs or in the Dst of a route without Gateway, or Onlink", gw)
	case gw.Is4() && r.Priority == 0 && (r.Table == 0 || r.Table == rtnl.TableMain) && c.isConnected(r.Dst):
		return "Dst", fmt.Errorf("%s: is the subnet of one of Addrs, which the kernel's own route reaches; want a Priority or no such route", r.Dst)
	}
	return "", nil
}

func (c Config) hasFamily(a netip.Addr) bool {
	for _, own := range c.Addrs {
		if own.Addr().Is4() == a.Is4() {
			return true
		}
	}
	return false
}

func (c Config) isOwn(a netip.Addr) bool {
	for _, own := range c.Addrs {
		if own.Addr() == a {
			return true
		}
	}
	return false
}

// isConnected reports whether the kernel makes a route to dst by itself.
func (c Config) isConnected(dst netip.Prefix) bool {
	for _, own := range c.Addrs {
		if own.Masked() == dst && !dst.IsSingleIP() {
			return true
		}
	}
	return false
}

// reaches reports whether gw is on the link without the help of a gateway.
func (c Config) reaches(gw netip.Addr) bool {
	if gw.IsLinkLocalUnicast() && gw.Is6() {
		return true
	}
	for _, own := range c.Addrs {
		if own.Contains(gw) {
			return true
		}
	}
	for _, r := range c.Routes {
		if !r.Gateway.IsValid() && r.Dst.Contains(gw) && r.Dst.Bits() > 0 {
			return true
		}
	}
	return false
}

// faultsInto returns a function that adds an error, with its field's name, to faults.
func faultsInto(faults *[]error) func(field string, err error) {
	return func(field string, err error) {
		if err != nil {
			*faults = append(*faults, fmt.Errorf("veth: %s %w", field, err))
		}
	}
}
