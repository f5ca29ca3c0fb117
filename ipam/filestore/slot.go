package filestore

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"time"

	"github.com/podnet/podnet/ipam"
)

// The file is a header of one page and slots behind it. 256 divides every sector size, so that a slot never lies across two sectors and
// a power cut leaves the old slot or the new one.
const (
	headerSize = 4096
	slotSize   = 256
	maxSlots   = 1 << 20
)

// A slot, little endian. A slot of zeros is empty; so is a valid one that carries another boot's id.
const (
	offSum      = 0   // CRC-32C of all that follows
	offSlot     = 4   // the slot's own number: a slot written to the wrong place is bad
	offSeq      = 8   // Record.Seq
	offReleased = 16  // Record.Released in ns since 1970, 0 while held
	offFlags    = 24  // flagUsed, flagStatic, flagIPv6<<i if address i is IPv6
	offIDLen    = 25  //
	offIfLen    = 26  //
	offAddrs    = 27  // how many
	offIfname   = 28  // 15 bytes
	offID       = 43  // 128 bytes
	offAddr     = 171 // 4 times: 1 byte of prefix length, 16 bytes of address (IPv4: the first 4)
	addrSize    = 17
	offBoot     = 240 // id of the boot in which it was written

	flagUsed   = 1
	flagStatic = 2
	flagIPv6   = 4
)

type bootID [16]byte

type slotState int

const (
	slotEmpty slotState = iota
	slotValid
	slotBad
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeroSlot   [slotSize]byte
)

// encodeSlot writes r into b.
func encodeSlot(b *[slotSize]byte, slot int, r ipam.Record, boot bootID) error {
	if err := r.Owner.Validate(); err != nil {
		return err
	}
	if len(r.Addrs) == 0 || len(r.Addrs) > ipam.MaxRangeSets {
		return fmt.Errorf("record of %s: %d addresses: want 1 to %d", r.Owner, len(r.Addrs), ipam.MaxRangeSets)
	}
	*b = zeroSlot
	binary.LittleEndian.PutUint32(b[offSlot:], uint32(slot))
	binary.LittleEndian.PutUint64(b[offSeq:], r.Seq)
	if !r.Released.IsZero() {
		ns := r.Released.UnixNano()
		if ns == 0 {
			ns = 1 // 0 is "held"
		}
		binary.LittleEndian.PutUint64(b[offReleased:], uint64(ns))
	}
	flags := byte(flagUsed)
	if r.Static {
		flags |= flagStatic
	}
	b[offIDLen], b[offIfLen], b[offAddrs] = byte(len(r.Owner.ContainerID)), byte(len(r.Owner.Ifname)), byte(len(r.Addrs))
	copy(b[offIfname:], r.Owner.Ifname)
	copy(b[offID:], r.Owner.ContainerID)
	for i, p := range r.Addrs {
		a := p.Addr()
		if !p.IsValid() || a.Is4In6() {
			return fmt.Errorf("record of %s: address %s: want plain IPv4 or IPv6 with a prefix length", r.Owner, p)
		}
		at := b[offAddr+i*addrSize:]
		at[0] = byte(p.Bits())
		copy(at[1:addrSize], a.AsSlice())
		if a.Is6() {
			flags |= flagIPv6 << i
		}
	}
	b[offFlags] = flags
	copy(b[offBoot:], boot[:])
	binary.LittleEndian.PutUint32(b[offSum:], crc32.Checksum(b[offSlot:], castagnoli))
	return nil
}

// decoder reads the slots of one boot. What it remembers between slots makes reading many of them allocate little.
type decoder struct {
	boot   bootID
	room   []netip.Prefix // where addresses go
	ifname string         // of the last record: mostly the next one's, too
}

func (d *decoder) decode(b []byte, slot int) (ipam.Record, slotState) {
	var r ipam.Record
	if [slotSize]byte(b) == zeroSlot {
		return r, slotEmpty
	}
	n, idLen, ifLen := int(b[offAddrs]), int(b[offIDLen]), int(b[offIfLen])
	if binary.LittleEndian.Uint32(b[offSum:]) != crc32.Checksum(b[offSlot:slotSize], castagnoli) ||
		binary.LittleEndian.Uint32(b[offSlot:]) != uint32(slot) || b[offFlags]&flagUsed == 0 ||
		n < 1 || n > ipam.MaxRangeSets || idLen > offAddr-offID || ifLen > offID-offIfname {
		return r, slotBad
	}
	if bootID(b[offBoot:slotSize]) != d.boot {
		return r, slotEmpty
	}
	if string(b[offIfname:offIfname+ifLen]) != d.ifname {
		d.ifname = string(b[offIfname : offIfname+ifLen])
	}
	r.Owner = ipam.Owner{ContainerID: string(b[offID : offID+idLen]), Ifname: d.ifname}
	if r.Owner.Validate() != nil {
		return ipam.Record{}, slotBad
	}
	r.Seq = binary.LittleEndian.Uint64(b[offSeq:])
	r.Static = b[offFlags]&flagStatic != 0
	if ns := int64(binary.LittleEndian.Uint64(b[offReleased:])); ns != 0 {
		r.Released = time.Unix(0, ns)
	}
	if cap(d.room)-len(d.room) < n {
		d.room = make([]netip.Prefix, 0, 512) // the full one belongs to the records now
	}
	start := len(d.room)
	for i := range n {
		at := b[offAddr+i*addrSize:]
		a := netip.AddrFrom4([4]byte(at[1:5]))
		if b[offFlags]&(flagIPv6<<i) != 0 {
			a = netip.AddrFrom16([16]byte(at[1:addrSize]))
		}
		p := netip.PrefixFrom(a, int(at[0]))
		if !p.IsValid() || a.Is4In6() {
			d.room = d.room[:start]
			return ipam.Record{}, slotBad
		}
		d.room = append(d.room, p)
	}
	r.Addrs = d.room[start:len(d.room):len(d.room)]
	return r, slotValid
}

// schema is the form of the file that this package writes and reads. A later one may stay readable for this package: it then says so in
// minReader, which is what decides.
const schema = 1

const magic = "podnetIPAM\x00\r\n\x1a\n\x00"

// header is the first page of the file: the magic, and then these, each four bytes, then the boot id and the CRC-32C of all before it.
type header struct {
	schema    uint32
	minReader uint32
	bad       uint32 // records of this boot that could not be read and were left behind with an old file
	boot      bootID // the boot that used the file last
}

const headerUsed = len(magic) + 3*4 + len(bootID{}) + 4

func (h header) encode() []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, h.schema)
	b = binary.LittleEndian.AppendUint32(b, h.minReader)
	b = binary.LittleEndian.AppendUint32(b, h.bad)
	b = append(b, h.boot[:]...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return b[:headerSize]
}

// decodeHeader says with ok whether b begins with a header at all.
func decodeHeader(b []byte) (h header, ok bool) {
	if len(b) < headerUsed || string(b[:len(magic)]) != magic {
		return h, false
	}
	sum := binary.LittleEndian.Uint32(b[headerUsed-4:])
	if sum != crc32.Checksum(b[:headerUsed-4], castagnoli) {
		return h, false
	}
	b = b[len(magic):]
	h.schema = binary.LittleEndian.Uint32(b)
	h.minReader = binary.LittleEndian.Uint32(b[4:])
	h.bad = binary.LittleEndian.Uint32(b[8:])
	copy(h.boot[:], b[12:])
	return h, true
}
