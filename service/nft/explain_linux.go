package nft

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/nfnl"
)

// part is something of the kernel that may be missing.
type part struct {
	what   string
	module string
	option string
	chain  nfnl.Chain
	exprs  []expr.Any
}

// parts returns what rules are made of.
func (f *family) parts() []part {
	v := f.digit()
	prerouting := nfnl.Chain{Name: "probe", Type: "nat", Hook: nfnl.Prerouting, Priority: -100}
	postrouting := nfnl.Chain{Name: "probe", Type: "nat", Hook: nfnl.Postrouting, Priority: 100}
	plain := nfnl.Chain{Name: "probe"}
	addr := []expr.Any{payload(reg(1), f.daddr, f.addrBytes()), immediate(reg(1+f.words), 0)}
	return []part{
		{"connection tracking", "nft_ct", "CONFIG_NFT_CT", plain, []expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: reg(0)}}},
		{"NAT", "nft_chain_nat", "CONFIG_NFT_NAT", prerouting, append(addr, f.dnat())},
		{"masquerading", "nft_masq", "CONFIG_NFT_MASQ", postrouting, []expr.Any{&expr.Masq{FullyRandom: true}}},
		{"local addresses (fib)", "nft_fib_ipv" + v, "CONFIG_NFT_FIB_IPV" + v, prerouting, local(false)},
		{"random numbers", "nft_numgen", "CONFIG_NFT_NUMGEN", plain, []expr.Any{&expr.Numgen{Register: reg(0), Modulus: 2, Type: unix.NFT_NG_RANDOM}}},
		{"reject", "nft_reject_ipv" + v, "CONFIG_NFT_REJECT_IPV" + v, prerouting, []expr.Any{f.reject()}},
	}
}

func (f *family) digit() string { return strconv.Itoa(int(f.service)) }

// lackError names what the kernel lacks. It matches errors.ErrUnsupported.
type lackError struct{ what string }

func (e *lackError) Error() string {
	return e.what + ": load the modules, use a kernel with them, or another mode (ipvs, iptables)"
}

func (e *lackError) Is(target error) bool { return target == errors.ErrUnsupported }

// explain says what the kernel lacks, if that is why it refused, and what to do.
func (d *Dataplane) explain(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("service/nft: %w: CAP_NET_ADMIN is needed in the network namespace", err)
	case errors.As(err, new(*lackError)): // has said so
	case unknown(err):
		if lack := d.lacking(ctx); lack != nil {
			err = fmt.Errorf("%w (%w)", lack, err)
		}
	}
	return fmt.Errorf("service/nft: %w", err)
}

// unknown reports whether err may say that the kernel does not know something.
func unknown(err error) bool {
	for _, e := range []unix.Errno{unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EINVAL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// lacking tries all that the rules are made of, in tables that are never made, and returns an error that names what is missing; nil if nothing is.
func (d *Dataplane) lacking(ctx context.Context) error {
	for _, t := range d.tables {
		f := t.family
		probe := nfnl.Table{Family: f.nf, Name: t.name.Name + "-probe"}
		try := func(p part) error {
			var tx nfnl.Transaction
			tx.AddTable(probe)
			tx.AddChain(probe, p.chain)
			tx.AddRule(probe, nfnl.Rule{Chain: p.chain.Name, Exprs: p.exprs})
			return d.k.Try(ctx, &tx)
		}
		if err := try(part{chain: nfnl.Chain{Name: "probe"}, exprs: []expr.Any{verdict(expr.VerdictAccept, "")}}); unknown(err) {
			return &lackError{fmt.Sprintf("the kernel has no nf_tables for %s (module nf_tables, CONFIG_NF_TABLES and CONFIG_NF_TABLES_IPV%s)", f.service, f.digit())}
		}
		var missing []string
		for _, p := range f.parts() {
			if unknown(try(p)) {
				missing = append(missing, fmt.Sprintf("%s (module %s, %s)", p.what, p.module, p.option))
			}
		}
		if len(missing) > 0 {
			return &lackError{fmt.Sprintf("the kernel's nf_tables lacks %s for %s", strings.Join(missing, ", "), f.service)}
		}
	}
	return nil
}
