package masq

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"
)

// A base chain for source NAT as the kernel counts: NF_INET_POST_ROUTING, NF_IP_PRI_NAT_SRC, NF_ACCEPT.
const (
	hookPostrouting = 4
	prioritySrcNAT  = 100
	policyAccept    = 1
)

// probeNFTables returns nil if rules can be written: the kernel answers for nf_tables and nft is there.
func probeNFTables() error {
	conn, err := dialNetfilter()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	defer conn.Close()
	_, err = ask(conn, unix.NFT_MSG_GETGEN, IPv4, 0, nil)
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("nftables: %w: CAP_NET_ADMIN is needed", err)
	case err != nil:
		return fmt.Errorf("nftables: kernel has no nf_tables (CONFIG_NF_TABLES, module nf_tables): %w", err)
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return fmt.Errorf("nftables: %w: install the package nftables", err)
	}
	return nil
}

// observeNFTables reads the tables of the chains. What the kernel cannot hold is not there.
func observeNFTables(_ context.Context, chains []Chain) (map[Chain]Observed, error) {
	conn, err := dialNetfilter()
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	have := map[Chain]Observed{}
	for _, c := range chains {
		seen, exists, err := observeTable(conn, c)
		if err != nil {
			return nil, fmt.Errorf("read table %s: %w", c, err)
		}
		if exists {
			have[c] = seen
		}
	}
	return have, nil
}

// observeTable reads the whole table of c, foreign chains with rules included: the table is ours, so they do not belong there.
func observeTable(conn *netlink.Conn, c Chain) (seen Observed, exists bool, err error) {
	name := netlink.Attribute{Type: unix.NFTA_TABLE_NAME, Data: zeroTerminated(c.Table)}
	table, err := ask(conn, unix.NFT_MSG_GETTABLE, c.Family, 0, []netlink.Attribute{name})
	if absent(err) || err == nil && len(table) == 0 {
		return Observed{}, false, nil
	}
	if err != nil {
		return Observed{}, false, err
	}
	chain, err := ask(conn, unix.NFT_MSG_GETCHAIN, c.Family, 0,
		[]netlink.Attribute{name, {Type: unix.NFTA_CHAIN_NAME, Data: zeroTerminated(c.Name)}})
	if err != nil && !absent(err) {
		return Observed{}, false, err
	}
	rules, err := ask(conn, unix.NFT_MSG_GETRULE, c.Family, netlink.Dump, []netlink.Attribute{name})
	if err != nil {
		return Observed{}, false, err
	}
	if len(chain) == 1 && hooked(chain[0].Data) && !dormant(table[0].Data) {
		seen.Hooks = 1
	}
	for _, m := range rules {
		seen.Comments = append(seen.Comments, ruleComment(m.Data, c.Name))
	}
	return seen, true, nil
}

// ask sends one question and returns the answers. An interrupted dump is asked again: part of the rules is no answer.
func ask(conn *netlink.Conn, kind uint16, f Family, flags netlink.HeaderFlags, attrs []netlink.Attribute) ([]netlink.Message, error) {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	m := netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{nfproto(f), unix.NFNETLINK_V0, 0, 0}, data...),
	}
	for range 10 {
		answers, err := conn.Execute(m)
		if err != nil {
			return nil, err
		}
		interrupted := func(m netlink.Message) bool { return m.Header.Flags&netlink.DumpInterrupted != 0 }
		if !slices.ContainsFunc(answers, interrupted) {
			return answers, nil
		}
	}
	return nil, fmt.Errorf("the ruleset changed during 10 reads: %w", unix.EINTR)
}

func nfproto(f Family) byte {
	if f == IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func zeroTerminated(s string) []byte { return append([]byte(s), 0) }

// absent reports whether err says that the object, or nf_tables itself, is not there.
func absent(err error) bool {
	for _, errno := range []unix.Errno{unix.ENOENT, unix.EPROTONOSUPPORT, unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EINVAL} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// dormant reports whether somebody switched the table off: its chains and rules exist and see no packet.
func dormant(message []byte) bool {
	flags := uint32(0)
	attributes(message[4:], func(ad *netlink.AttributeDecoder) {
		if ad.Type() == unix.NFTA_TABLE_FLAGS {
			flags = ad.Uint32()
		}
	})
	return flags&unix.NFT_TABLE_F_DORMANT != 0
}

// hooked reports whether a chain is a base chain for source NAT.
func hooked(message []byte) bool {
	var kind string
	var hook, priority, policy uint32
	attributes(message[4:], func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_CHAIN_TYPE:
			kind = ad.String()
		case unix.NFTA_CHAIN_POLICY:
			policy = ad.Uint32()
		case unix.NFTA_CHAIN_HOOK:
			attributes(ad.Bytes(), func(ad *netlink.AttributeDecoder) {
				switch ad.Type() {
				case unix.NFTA_HOOK_HOOKNUM:
					hook = ad.Uint32()
				case unix.NFTA_HOOK_PRIORITY:
					priority = ad.Uint32()
				}
			})
		}
	})
	return kind == "nat" && hook == hookPostrouting && priority == prioritySrcNAT && policy == policyAccept
}

// ruleComment returns the comment of a rule, "" if it has none or stands in another chain.
func ruleComment(message []byte, chain string) string {
	comment, own := "", false
	attributes(message[4:], func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_RULE_CHAIN:
			own = ad.String() == chain
		case unix.NFTA_RULE_USERDATA:
			comment, _ = userdata.GetString(ad.Bytes(), userdata.TypeComment)
		}
	})
	if !own {
		return ""
	}
	return comment
}

// attributes calls f for each netlink attribute. The kernel's own encoding is trusted; what is cut off reads as missing.
func attributes(b []byte, f func(*netlink.AttributeDecoder)) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		f(ad)
	}
}

func dialNetfilter() (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink: %w", err)
	}
	return conn, nil
}

// setNFTables replaces the table in one transaction: until it is committed, packets meet the old rules, afterwards the new ones. The
// table is made anew instead of flushed, so that a chain with another hook, a foreign chain or a dormant flag goes too.
func (n *Netfilter) setNFTables(ctx context.Context, s Ruleset) error {
	nft, err := n.writer.open()
	if err != nil {
		return err
	}
	family, table := knftables.Family(s.Chain.Family), s.Chain.Table
	tx := nft.NewTransaction()
	tx.Add(&knftables.Table{Family: family, Name: table}) // deleting a missing table would fail
	tx.Delete(&knftables.Table{Family: family, Name: table})
	tx.Add(&knftables.Table{Family: family, Name: table})
	tx.Add(&knftables.Chain{
		Family: family, Table: table, Name: s.Chain.Name,
		Type:     knftables.PtrTo(knftables.NATType),
		Hook:     knftables.PtrTo(knftables.PostroutingHook),
		Priority: knftables.PtrTo(knftables.SNATPriority),
		Policy:   knftables.PtrTo(knftables.AcceptPolicy),
	})
	for _, r := range s.Rules {
		tx.Add(&knftables.Rule{
			Family: family, Table: table, Chain: s.Chain.Name,
			Rule: r.nft(s.Chain.Family), Comment: knftables.PtrTo(r.Comment),
		})
	}
	return nft.Run(ctx, tx)
}

// nftWriter runs nft. Making one runs nft three times to try it, so that is done at the first write and kept.
type nftWriter struct {
	mu  sync.Mutex
	nft knftables.Interface
}

func (w *nftWriter) open() (knftables.Interface, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.nft != nil {
		return w.nft, nil
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return nil, fmt.Errorf("%w: install the package nftables, or choose the iptables backend", err)
	}
	nft, err := knftables.New("", "")
	if err != nil {
		return nil, err
	}
	w.nft = nft
	return nft, nil
}

// deleteNFTables needs no nft: a host from which the package is gone is cleaned too.
func deleteNFTables(c Chain) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.DelTable(&nftables.Table{Name: c.Table, Family: nftables.TableFamily(nfproto(c.Family))})
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}
