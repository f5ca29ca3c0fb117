package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Config says whose flows are looked at. The zero Config has none: applying it does nothing.
type Config struct {
	// Frontends are UDP frontends that changed, or all of them. One that is gone is given with nobody who serves. What two entries with the same Addr say is taken together.
	Frontends []Frontend

	// Restored are frontends of TCP and SCTP that may have been missing for a while, such as between a flush of the rules and their repair. Connections to them that were neither translated
	// nor answered go: their first packet came when nothing stood, and decided for all that follow. The client's next try finds its way.
	Restored []Restored

	// NodePortAddrs restricts node ports to local addresses in these ranges, as they are restricted where they are programmed. Empty is all local addresses.
	NodePortAddrs []netip.Prefix

	// ServiceCIDRs are ranges that belong to Services alone. UDP flows into them that no frontend knows are stale as well: those of Services that were deleted while nobody ran.
	// Set it only together with all frontends, and not where another proxy serves a part of the Services. Empty: flows that no frontend knows are left alone.
	ServiceCIDRs []netip.Prefix
}

// Frontend is an address and port at which UDP is served.
type Frontend struct {
	// Addr is the address and port. The unspecified address of a family (0.0.0.0 or ::) makes it a node port: any local address.
	Addr netip.AddrPort

	// Serving are the endpoints whose flows may stay. Empty is nobody: every flow to Addr goes.
	Serving []netip.AddrPort
}

// Restored is an address and port at which TCP or SCTP is served. There are none for node ports: a local port that nobody listens on refuses at once.
type Restored struct {
	Protocol Protocol // TCP or SCTP
	Addr     netip.AddrPort
}

// Validate returns every fault of c, each with field, value and what is allowed.
func (c Config) Validate() error {
	var errs []error
	for i, f := range c.Frontends {
		if err := checkAddrPort(f.Addr); err != nil {
			errs = append(errs, fmt.Errorf("Frontends[%d].Addr %s: %w", i, f.Addr, err))
			continue
		}
		for j, s := range f.Serving {
			err := checkAddrPort(s)
			if err == nil && s.Addr().Is4() != f.Addr.Addr().Is4() {
				err = fmt.Errorf("want the family of the frontend %s", f.Addr)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("Frontends[%d].Serving[%d] %s: %w", i, j, s, err))
			}
		}
	}
	for i, r := range c.Restored {
		if r.Protocol != TCP && r.Protocol != SCTP {
			errs = append(errs, fmt.Errorf("Restored[%d].Protocol %s: want TCP or SCTP", i, r.Protocol))
		}
		err := checkAddrPort(r.Addr)
		if err == nil && r.Addr.Addr().IsUnspecified() {
			err = errors.New("want an address: a node port refuses by itself")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("Restored[%d].Addr %s: %w", i, r.Addr, err))
		}
	}
	for _, list := range []struct {
		name   string
		ranges []netip.Prefix
	}{{"NodePortAddrs", c.NodePortAddrs}, {"ServiceCIDRs", c.ServiceCIDRs}} {
		for i, p := range list.ranges {
			if !p.IsValid() || p.Addr().Is4In6() {
				errs = append(errs, fmt.Errorf("%s[%d] %s: want an IPv4 or IPv6 CIDR", list.name, i, p))
			}
		}
	}
	for i, p := range c.ServiceCIDRs {
		if p.IsValid() && p.Bits() == 0 {
			errs = append(errs, fmt.Errorf("ServiceCIDRs[%d] %s: covers every address: give a length of at least 1", i, p))
		}
	}
	return errors.Join(errs...)
}

func checkAddrPort(a netip.AddrPort) error {
	switch {
	case !a.Addr().IsValid() || a.Port() == 0:
		return errors.New("want an address and a port from 1 to 65535")
	case a.Addr().Is4In6() || a.Addr().Zone() != "":
		return errors.New("want a plain IPv4 or IPv6 address without a zone")
	}
	return nil
}

// empty reports whether c concerns no flow of the family and protocol.
func (c Config) empty(f Family, p Protocol) bool {
	if p != UDP {
		return !slices.ContainsFunc(c.Restored, func(r Restored) bool { return r.Protocol == p && familyOf(r.Addr.Addr()) == f })
	}
	return !slices.ContainsFunc(c.Frontends, func(front Frontend) bool { return familyOf(front.Addr.Addr()) == f }) &&
		!slices.ContainsFunc(c.ServiceCIDRs, func(r netip.Prefix) bool { return familyOf(r.Addr()) == f })
}
