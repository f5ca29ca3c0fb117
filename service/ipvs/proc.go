package ipvs

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"strconv"

	"github.com/podnet/podnet/service"
)

// parseProc reads /proc/net/ip_vs: every virtual server with all its real servers and their connections in one read, where netlink takes a dump per virtual server. A
// line of a virtual server has no family if it is a mark, no flags of schedulers, and its settings are not looked at: netlink tells those. real is called for each
// real server, with the key of its virtual server; that of a mark has the family of the real server.
//
//	TCP  0A60000A:0050 rr persistent 10800
//	  -> 0AF40102:1F90      Masq    1      0          4
//	TCP  [fd0a:0000:0000:0000:0000:0000:0000:0010]:0050 rr
//	FWM  50000001 rr
func parseProc(r io.Reader, server func(Key), real func(Key, Real)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), 64<<10)
	var key Key
	var fields [8][]byte
	for number := 1; lines.Scan(); number++ {
		line := lines.Bytes()
		if number <= 3 { // the heading
			continue
		}
		f := split(line, fields[:0])
		var ok bool
		switch {
		case len(f) > 0 && string(f[0]) == "->":
			var one Real
			if one, ok = parseReal(f[1:]); ok {
				if key.Mark != 0 {
					key.Family = service.FamilyOf(one.Addr.Addr())
				}
				if key.known() {
					real(key, one)
				}
			}
		case len(f) >= 2:
			if key, ok = parseServer(f); ok && key.known() {
				server(key)
			}
		}
		if !ok {
			return fmt.Errorf("/proc/net/ip_vs, line %d: %q is not understood", number, line)
		}
	}
	return lines.Err()
}

// split is bytes.Fields without making a list.
func split(line []byte, fields [][]byte) [][]byte {
	for start, i := -1, 0; i <= len(line); i++ {
		space := i == len(line) || line[i] == ' '
		if !space && start < 0 {
			start = i
		} else if space && start >= 0 {
			if len(fields) < cap(fields) {
				fields = append(fields, line[start:i])
			}
			start = -1
		}
	}
	return fields
}

func parseServer(f [][]byte) (Key, bool) {
	if string(f[0]) == "FWM" {
		mark, err := strconv.ParseUint(string(f[1]), 16, 32)
		return Key{Mark: uint32(mark), Family: service.IPv4}, err == nil
	}
	addr, ok := parseAddr(f[1])
	k := Key{Addr: addr, Family: service.FamilyOf(addr.Addr())}
	switch string(f[0]) {
	case "TCP":
		k.Protocol = service.TCP
	case "UDP":
		k.Protocol = service.UDP
	case "SCTP":
		k.Protocol = service.SCTP
	} // others are nobody's business here: the kernel takes any protocol
	return k, ok
}

// known reports whether a virtual server is one that Services could have.
func (k Key) known() bool { return k.Mark != 0 || k.Protocol != 0 }

func parseReal(f [][]byte) (Real, bool) {
	if len(f) < 5 {
		return Real{}, false
	}
	addr, ok := parseAddr(f[0])
	weight, err1 := strconv.Atoi(string(f[2]))
	active, err2 := strconv.ParseUint(string(f[3]), 10, 32)
	inactive, err3 := strconv.ParseUint(string(f[4]), 10, 32)
	ok = ok && err1 == nil && err2 == nil && err3 == nil
	// The kernel shows a real server on this node as "Local" whatever its method is.
	foreign := string(f[1]) != "Masq" && string(f[1]) != "Local"
	return Real{Addr: addr, Weight: int32(weight), Active: uint32(active), Inactive: uint32(inactive), Foreign: foreign}, ok
}

// parseAddr reads "0A60000A:0050" or "[fd0a:...:0010]:0050".
func parseAddr(text []byte) (netip.AddrPort, bool) {
	i := len(text) - 5
	if i < 1 || text[i] != ':' {
		return netip.AddrPort{}, false
	}
	var port [2]byte
	if _, err := hex.Decode(port[:], text[i+1:]); err != nil {
		return netip.AddrPort{}, false
	}
	host := text[:i]
	var addr netip.Addr
	switch {
	case len(host) == 8:
		var four [4]byte
		if _, err := hex.Decode(four[:], host); err != nil {
			return netip.AddrPort{}, false
		}
		addr = netip.AddrFrom4(four)
	case len(host) == 41 && host[0] == '[' && host[40] == ']':
		var digits [32]byte
		var sixteen [16]byte
		for j, n := 1, 0; j < 40 && n < 32; j++ {
			if j%5 != 0 {
				digits[n] = host[j]
				n++
			}
		}
		if _, err := hex.Decode(sixteen[:], digits[:]); err != nil {
			return netip.AddrPort{}, false
		}
		addr = netip.AddrFrom16(sixteen)
	default:
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr, uint16(port[0])<<8|uint16(port[1])), true
}
