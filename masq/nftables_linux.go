package masq

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
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
	s, err := openSocket()
	if err == nil {
		defer s.close()
		var answers []answer
		if answers, err = s.ask("", question{kind: unix.NFT_MSG_GETGEN}); err == nil {
			err = answers[0].err
		}
	}
	switch {
	case absent(err):
		return fmt.Errorf("nftables: kernel has no nf_tables (CONFIG_NF_TABLES, module nf_tables): %w", err)
	case err != nil:
		return fmt.Errorf("nftables: %w", err)
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return fmt.Errorf("nftables: %w: install the package nftables", err)
	}
	return nil
}

// observeNFTables reads the whole tables of the chains, foreign chains with rules included: the tables are ours, so they do not
// belong there. What the kernel cannot hold is not there.
func observeNFTables(_ context.Context, chains []Chain) (map[Chain]Observed, error) {
	s, err := openSocket()
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer s.close()
	have := map[Chain]Observed{}
	for _, c := range chains {
		seen, exists, err := observeTable(s, c)
		if err != nil {
			return nil, fmt.Errorf("table %s %s: %w", c.Family, c.Table, err)
		}
		if exists {
			have[c] = seen
		}
	}
	return have, nil
}

// observeTable asks for the table, its base chain and its rules.
func observeTable(s *socket, c Chain) (seen Observed, exists bool, err error) {
	table := netlink.Attribute{Type: unix.NFTA_TABLE_NAME, Data: zeroTerminated(c.Table)} // number and form are the same for chains and rules
	chain := netlink.Attribute{Type: unix.NFTA_CHAIN_NAME, Data: zeroTerminated(c.Name)}
	answers, err := s.ask(c.Family,
		question{kind: unix.NFT_MSG_GETTABLE, attrs: []netlink.Attribute{table}},
		question{kind: unix.NFT_MSG_GETCHAIN, attrs: []netlink.Attribute{table, chain}},
		question{kind: unix.NFT_MSG_GETRULE, dump: true, attrs: []netlink.Attribute{table}})
	if err != nil {
		return Observed{}, false, err
	}
	for _, a := range answers {
		if a.err != nil && !absent(a.err) {
			return Observed{}, false, a.err
		}
	}
	tables, chains, rules := answers[0].messages, answers[1].messages, answers[2].messages
	if len(tables) == 0 {
		return Observed{}, false, nil
	}
	if len(chains) == 1 && hooked(chains[0]) && !dormant(tables[0]) {
		seen.Hooks = 1
	}
	for _, r := range rules {
		seen.Comments = append(seen.Comments, ruleComment(r, c.Name))
	}
	return seen, true, nil
}

func nfproto(f Family) byte {
	switch f {
	case IPv4:
		return unix.NFPROTO_IPV4
	case IPv6:
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_UNSPEC
}

func zeroTerminated(s string) []byte { return append([]byte(s), 0) }

// absent reports whether err says that the object, or nf_tables itself, is not there.
func absent(err error) bool {
	if err == nil {
		return false
	}
	for _, errno := range []unix.Errno{unix.ENOENT, unix.EPROTONOSUPPORT, unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EINVAL} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// dormant reports whether somebody switched the table off: its chains and rules exist and see no packet.
func dormant(attrs []byte) bool {
	flags := uint32(0)
	attributes(attrs, func(ad *netlink.AttributeDecoder) {
		if ad.Type() == unix.NFTA_TABLE_FLAGS {
			flags = ad.Uint32()
		}
	})
	return flags&unix.NFT_TABLE_F_DORMANT != 0
}

// hooked reports whether a chain is a base chain for source NAT.
func hooked(attrs []byte) bool {
	var kind string
	var hook, priority, policy uint32
	attributes(attrs, func(ad *netlink.AttributeDecoder) {
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
func ruleComment(attrs []byte, chain string) string {
	comment, own := "", false
	attributes(attrs, func(ad *netlink.AttributeDecoder) {
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
