package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podnet/podnet/internal/netns"
)

// generations asks the kernel for the generation of a namespace's nftables ruleset, which every transaction that is in effect has raised by one. Asking costs two system calls, and the
// one who commits nothing: unlike a subscription, for which the kernel makes a message of every element that is written.
type generations struct{ fd int }

func openGenerations(path string) (g *generations, err error) {
	g = &generations{}
	err = netns.Do(path, func() (err error) {
		g.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		return err
	})
	return g, err
}

func (g *generations) close() { _ = unix.Close(g.fd) }

func (g *generations) get() (uint32, error) {
	var b [20]byte // nlmsghdr and nfgenmsg
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(g.fd, b[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("ask for the ruleset's generation: %w", err)
	}
	var answer [512]byte
	n, _, err := unix.Recvfrom(g.fd, answer[:], 0)
	if err != nil {
		return 0, fmt.Errorf("the ruleset's generation: %w", err)
	}
	// NFTA_GEN_ID is the first attribute.
	if n < 28 || binary.NativeEndian.Uint16(answer[4:]) != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
		return 0, errors.New("the ruleset's generation: the kernel answers something else")
	}
	return binary.BigEndian.Uint32(answer[24:]), nil
}

// next waits for a generation that is not this one.
func (g *generations) next(before uint32, deadline time.Time) (now uint32, at time.Time, err error) {
	for {
		now, err = g.get()
		if at = time.Now(); err != nil || now != before {
			return now, at, err
		}
		if at.After(deadline) {
			return now, at, errNotFinished
		}
		time.Sleep(200 * time.Microsecond)
	}
}
