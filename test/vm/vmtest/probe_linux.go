package vmtest

import (
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// probe asks generic netlink for a family, as any user may (Documentation/userspace-api/netlink/intro.rst).
func probe(family string) error {
	c, err := netlink.Dial(unix.NETLINK_GENERIC, nil)
	if err != nil {
		return fmt.Errorf("generic netlink: %w", err)
	}
	defer c.Close()
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.CTRL_ATTR_FAMILY_NAME, Data: append([]byte(family), 0)}})
	if err != nil {
		return err
	}
	const version = 1
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.GENL_ID_CTRL, Flags: netlink.Request},
		Data:   append([]byte{unix.CTRL_CMD_GETFAMILY, version, 0, 0}, attributes...),
	})
	if err != nil {
		return fmt.Errorf("generic netlink family %s: %w", family, err)
	}
	return nil
}
