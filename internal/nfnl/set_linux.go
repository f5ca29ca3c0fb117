package nfnl

import (
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// AddSet makes a set or map. One that exists stays as it is; since Linux 6.2 one of other types is refused (EEXIST).
func (t *Transaction) AddSet(table Table, s Set) {
	t.setID++
	id := t.setID
	t.object(stepObjects, unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, table, func(e *encoder) {
		e.text(unix.NFTA_SET_TABLE, table.Name)
		e.text(unix.NFTA_SET_NAME, s.Name)
		e.u32(unix.NFTA_SET_FLAGS, s.flags())
		e.u32(unix.NFTA_SET_KEY_TYPE, uint32(s.Key))
		e.u32(unix.NFTA_SET_KEY_LEN, uint32(s.Key.Len()))
		switch s.Data {
		case 0:
		case TypeVerdict:
			e.u32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
			e.u32(unix.NFTA_SET_DATA_LEN, 0)
		default:
			e.u32(unix.NFTA_SET_DATA_TYPE, uint32(s.Data))
			e.u32(unix.NFTA_SET_DATA_LEN, uint32(s.Data.Len()))
		}
		e.u32(unix.NFTA_SET_ID, id)
		if s.Size != 0 {
			desc := e.nest(unix.NFTA_SET_DESC)
			e.u32(unix.NFTA_SET_DESC_SIZE, s.Size)
			e.endNest(desc)
		}
		if ud := s.userdata(); len(ud) > 0 {
			e.bytes(unix.NFTA_SET_USERDATA, ud)
		}
	})
}

func (s Set) flags() uint32 {
	var f uint32
	for _, x := range []struct {
		on   bool
		flag uint32
	}{
		{s.Data != 0, unix.NFT_SET_MAP}, {s.Timeout, unix.NFT_SET_TIMEOUT}, {s.Dynamic, unix.NFT_SET_EVAL}, {s.Interval, unix.NFT_SET_INTERVAL},
	} {
		if x.on {
			f |= x.flag
		}
	}
	return f
}

// byteOrder is how nft shows a value of one field: 1 is the machine's order (enum byteorder in nft's include/datatype.h). nft knows the order inside concatenations by the types.
func (t Type) byteOrder() uint32 {
	if t == TypeMark || t == TypeIfname {
		return 1
	}
	return 2
}

// userdata is what nft writes beside a set to show its elements.
func (s Set) userdata() []byte {
	ud := userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, s.Key.byteOrder())
	if s.Data != 0 && s.Data != TypeVerdict {
		ud = userdata.AppendUint32(ud, userdata.NFTNL_UDATA_SET_DATABYTEORDER, s.Data.byteOrder())
	}
	return ud
}
