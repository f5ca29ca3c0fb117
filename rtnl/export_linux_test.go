package rtnl

import "golang.org/x/sys/unix"

// SetChunk sets how many bytes Write gathers for one sendmsg.
func (c *Conn) SetChunk(bytes int) { c.chunk = bytes }

// ShrinkAnswers gives the writing socket a receive buffer as small as an unprivileged process would get.
func (c *Conn) ShrinkAnswers(bytes int) error {
	if err := unix.SetsockoptInt(c.write.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes); err != nil {
		return err
	}
	return c.write.countAnswers()
}

// ShrinkWatch gives the sockets of Watch a small receive buffer.
func (c *Conn) ShrinkWatch(bytes int) { c.watchBuffer = bytes }
