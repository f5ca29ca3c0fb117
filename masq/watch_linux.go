package masq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch listens to NFNLGRP_NFTABLES. "flush ruleset" arrives as one message per deleted table, so looking at the name of the table is enough.
func (n *Netfilter) Watch(ctx context.Context, table string, notify func()) error {
	var conn *netlink.Conn
	err := n.in(func() (err error) {
		if conn, err = netlink.Dial(unix.NETLINK_NETFILTER, nil); err != nil {
			return fmt.Errorf("open netfilter netlink: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("subscribe to nftables: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	notify() // what changed before is not announced
	for {
		messages, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS):
			notify() // the kernel dropped announcements, ours may be among them; the subscription goes on
		case err != nil:
			return fmt.Errorf("receive nftables changes: %w", err)
		case concerns(messages, zeroTerminated(table)):
			notify()
		}
	}
}

// concerns reports whether one of the messages is about the table. Every kind of nftables object has its table as first attribute.
func concerns(messages []netlink.Message, table []byte) bool {
	for _, m := range messages {
		if uint16(m.Header.Type)>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < 4 {
			continue
		}
		found := false
		attributes(m.Data[4:], func(ad *netlink.AttributeDecoder) {
			found = found || ad.Type() == unix.NFTA_TABLE_NAME && bytes.Equal(ad.Bytes(), table)
		})
		if found {
			return true
		}
	}
	return false
}
