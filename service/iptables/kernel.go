package iptables

import (
	"context"

	"github.com/podnet/podnet/service"
)

// Kernel is what a Dataplane needs. [Tools] is the real one, iptablestest.Kernel the fake. Arguments are single words, as for a process.
type Kernel interface {
	// Save returns what iptables-save prints of a table.
	Save(ctx context.Context, f service.Family, table string) (string, error)
	// Restore does what iptables-restore --noflush does: each table as a whole or not at all.
	Restore(ctx context.Context, f service.Family, input string) error
	// Rules returns the rules of a chain as "iptables -S" prints them, without "-A CHAIN ".
	Rules(ctx context.Context, f service.Family, table, chain string) ([]string, error)
	// Insert puts a rule before all others of a chain.
	Insert(ctx context.Context, f service.Family, table, chain string, rule ...string) error
	// Append puts a rule behind all others of a chain.
	Append(ctx context.Context, f service.Family, table, chain string, rule ...string) error
	// Delete removes the first rule of a chain that is the same.
	Delete(ctx context.Context, f service.Family, table, chain string, rule ...string) error
}

// Variant is the kernel's side of iptables: two sets of tables that know nothing of each other.
type Variant string

// The variants.
const (
	Auto   Variant = ""       // what the host's iptables is
	Legacy Variant = "legacy" // x_tables
	NFT    Variant = "nft"    // nf_tables
)

// Tools is the real kernel: the host's iptables programs, run in one network namespace. The zero value runs "iptables" and "ip6tables" in the namespace of the calling thread.
// Rules are written by iptables-restore, rules in built-in chains one by one; both wait for the xtables lock up to ten seconds. Nothing goes through a shell. A Tools may be used by
// several goroutines, and must not be copied.
type Tools struct {
	// Netns is the path of a network namespace (/run/netns/x, /proc/PID/ns/net). "" is the namespace of the calling thread.
	Netns string

	// Variant chooses the programs: iptables-legacy or iptables-nft instead of iptables. Take what the host's other programs use: rules in the other one are evaluated too.
	Variant Variant

	found finder
}

var _ Kernel = (*Tools)(nil)
