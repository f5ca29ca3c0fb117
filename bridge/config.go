package bridge

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"

	"github.com/podnet/podnet/internal/check"
	"github.com/podnet/podnet/rtnl"
)

// Config is the pod bridge as it should be. The zero Config wants no bridge: Apply then deletes every bridge that carries this package's mark.
type Config struct {
	Name string // the device, such as "cni0"

	// Gateways are all addresses of the bridge, with the length of their subnets; at most one per subnet. They are the whole
	// set: a caller that names another set at each pod would take the others' gateway away.
	// With none the bridge only switches frames, and forwarding is left alone.
	Gateways []netip.Prefix

	MTU int      // 0: the kernel lets the bridge follow its smallest port
	MAC rtnl.MAC // zero: derived from Name and Gateways, so that it is the same when the bridge is made again

	// ForceAddress removes an address from a bridge that somebody else made if it is in the way of a gateway address. Otherwise that is an error.
	ForceAddress bool
}

// Validate returns every fault of c. The zero Config is valid.
func (c Config) Validate() error {
	if c.isZero() {
		return nil
	}
	var faults []error
	fault := func(field string, err error) {
		if err != nil {
			faults = append(faults, fmt.Errorf("bridge: %s %w", field, err))
		}
	}
	ipv6 := false
	fault("Name", check.Device(c.Name))
	for i, gw := range c.Gateways {
		field := fmt.Sprintf("Gateways[%d]", i)
		if err := check.InterfaceAddr(gw); err != nil {
			fault(field, err)
			continue
		}
		ipv6 = ipv6 || gw.Addr().Is6()
		for j, other := range c.Gateways[:i] {
			if gw.Overlaps(other) {
				fault(field, fmt.Errorf("%s: overlaps Gateways[%d] %s; want one address per subnet", gw, j, other))
			}
		}
	}
	fault("MTU", check.MTU(c.MTU, ipv6))
	fault("MAC", check.MAC(c.MAC))
	return errors.Join(faults...)
}

func (c Config) isZero() bool {
	return c.Name == "" && len(c.Gateways) == 0 && c.MTU == 0 && c.MAC.IsZero() && !c.ForceAddress
}

// HardwareAddr returns the MAC that a bridge made for c has. It is zero for a bridge without MAC and Gateways: nothing tells such bridges of
// different nodes apart, so they get a random one.
//
// The derived MAC is a hash, unlike the field's 0a:58 and the IPv4 address: with that, a bridge that another plugin made could be taken for ours.
func (c Config) HardwareAddr() rtnl.MAC {
	if !c.MAC.IsZero() || len(c.Gateways) == 0 {
		return c.MAC
	}
	lowest := c.Gateways[0] // in whatever order the caller gives them; IPv4 sorts before IPv6
	for _, gw := range c.Gateways[1:] {
		if gw.Addr().Less(lowest.Addr()) {
			lowest = gw
		}
	}
	sum := sha256.Sum256([]byte(Mark + " " + c.Name + " " + lowest.Addr().String()))
	return local(rtnl.MAC(sum[:6]))
}

// local returns mac as a locally administered unicast address.
func local(mac rtnl.MAC) rtnl.MAC {
	mac[0] = mac[0]&^1 | 2
	return mac
}
