package main

import (
	"net/netip"

	"github.com/podnet/podnet/ipam"
)

func testAddrs() []ipam.Address {
	return []ipam.Address{
		{Prefix: netip.MustParsePrefix("10.244.1.5/24"), Gateway: netip.MustParseAddr("10.244.1.1")},
		{Prefix: netip.MustParsePrefix("fd00:244:0:1::5/64"), Gateway: netip.MustParseAddr("fd00:244:0:1::1")},
	}
}
