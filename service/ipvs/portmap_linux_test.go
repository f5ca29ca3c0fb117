package ipvs_test

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// portmapRule is: fib daddr type local tcp dport 80 dnat to 10.244.0.99:9999.
func portmapRule() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 8, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 8, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
		&expr.Payload{DestRegister: 8, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 8, Data: []byte{0, 80}},
		&expr.Immediate{Register: 8, Data: []byte{10, 244, 0, 99}},
		&expr.Immediate{Register: 9, Data: binary.BigEndian.AppendUint16(nil, 9999)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 8, RegProtoMin: 9},
	}
}
