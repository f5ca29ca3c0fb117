package kubeapi

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// The API server's protobuf: an object is the magic, then a runtime.Unknown whose field 2 is the message. Field numbers are those of
// generated.proto in k8s.io/api/core/v1 and k8s.io/apimachinery, which never change; the tests compare with the generated code.
var magic = []byte("k8s\x00")

// Bounds on what a server may make us hold: etcd takes objects of at most 1.5 MiB by default.
const (
	maxObject     = 8 << 20
	maxAnnotation = 2048 // of one value; what is longer is cut, which no reader of annotations here takes for good
	maxEntries    = 64   // podCIDRs or addresses of one node
)

var errMalformed = errors.New("malformed protobuf from the API server")

// fields calls f for each field of a message. Of a varint v is the value, of bytes b; b is only valid during the call.
func fields(msg []byte, f func(num protowire.Number, v uint64, b []byte) error) error {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return errMalformed
		}
		msg = msg[n:]
		var v uint64
		var b []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(msg)
		case protowire.BytesType:
			b, n = protowire.ConsumeBytes(msg)
		default:
			n = protowire.ConsumeFieldValue(num, typ, msg)
		}
		if n < 0 {
			return errMalformed
		}
		msg = msg[n:]
		if err := f(num, v, b); err != nil {
			return err
		}
	}
	return nil
}

// unwrap returns the message of an object.
func unwrap(object []byte) (msg []byte, err error) {
	if len(object) < len(magic) || string(object[:len(magic)]) != string(magic) {
		return nil, errMalformed
	}
	err = fields(object[len(magic):], func(num protowire.Number, _ uint64, b []byte) error {
		if num == 2 {
			msg = b
		}
		return nil
	})
	return msg, err
}

// decodeNode reads the fields in use of a Node. Of the annotations, only those with the prefix.
func decodeNode(msg []byte, prefix string) (Node, error) {
	var n Node
	err := fields(msg, func(num protowire.Number, _ uint64, b []byte) error {
		switch num {
		case 1:
			return n.decodeMeta(b, prefix)
		case 2:
			return n.decodeSpec(b)
		case 3:
			return n.decodeStatus(b)
		}
		return nil
	})
	return n, err
}

func (n *Node) decodeMeta(msg []byte, prefix string) error {
	return fields(msg, func(num protowire.Number, _ uint64, b []byte) error {
		switch num {
		case 1:
			n.Name = string(b)
		case 5:
			n.UID = string(b)
		case 6:
			n.ResourceVersion = string(b)
		case 8:
			return fields(b, func(num protowire.Number, v uint64, _ []byte) error {
				if num == 1 {
					n.Created = int64(v)
				}
				return nil
			})
		case 12:
			return n.decodeAnnotation(b, prefix)
		}
		return nil
	})
}

func (n *Node) decodeAnnotation(entry []byte, prefix string) error {
	var key, value []byte
	err := fields(entry, func(num protowire.Number, _ uint64, b []byte) error {
		switch num {
		case 1:
			key = b
		case 2:
			value = b
		}
		return nil
	})
	if err != nil || prefix == "" || !strings.HasPrefix(string(key), prefix) || len(n.Annotations) == maxEntries {
		return err
	}
	if n.Annotations == nil {
		n.Annotations = make(map[string]string, 8)
	}
	n.Annotations[string(key)] = string(value[:min(len(value), maxAnnotation)])
	return nil
}

func (n *Node) decodeSpec(msg []byte) error {
	var single string
	err := fields(msg, func(num protowire.Number, _ uint64, b []byte) error {
		switch {
		case num == 1:
			single = string(b)
		case num == 7 && len(n.PodCIDRs) < maxEntries:
			n.PodCIDRs = append(n.PodCIDRs, string(b))
		}
		return nil
	})
	if len(n.PodCIDRs) == 0 && single != "" {
		n.PodCIDRs = []string{single}
	}
	return err
}

func (n *Node) decodeStatus(msg []byte) error {
	return fields(msg, func(num protowire.Number, _ uint64, b []byte) error {
		switch {
		case num == 4:
			return n.decodeCondition(b)
		case num == 5 && len(n.Addresses) < maxEntries:
			var a Address
			err := fields(b, func(num protowire.Number, _ uint64, b []byte) error {
				switch num {
				case 1:
					a.Type = intern(b)
				case 2:
					a.Address = string(b)
				}
				return nil
			})
			if a.Type == InternalIP || a.Type == ExternalIP {
				n.Addresses = append(n.Addresses, a)
			}
			return err
		}
		return nil
	})
}

// intern returns one string for all nodes.
func intern(b []byte) string {
	for _, s := range []string{InternalIP, ExternalIP} {
		if string(b) == s {
			return s
		}
	}
	return ""
}

func (n *Node) decodeCondition(msg []byte) error {
	var kind, status, reason, message []byte
	err := fields(msg, func(num protowire.Number, _ uint64, b []byte) error {
		switch num {
		case 1:
			kind = b
		case 2:
			status = b
		case 5:
			reason = b
		case 6:
			message = b
		}
		return nil
	})
	if err == nil && string(kind) == NetworkUnavailable {
		n.Network = Condition{string(status), string(reason), string(message)}
	}
	return err
}

// decodeStatusError reads a meta/v1 Status.
func decodeStatusError(msg []byte) (*StatusError, error) {
	e := &StatusError{}
	err := fields(msg, func(num protowire.Number, v uint64, b []byte) error {
		switch num {
		case 3:
			e.Message = clean(string(b))
		case 4:
			e.Reason = clean(string(b))
		case 5:
			return fields(b, func(num protowire.Number, v uint64, _ []byte) error {
				if num == 5 {
					e.retryAfter(int64(v))
				}
				return nil
			})
		case 6:
			e.Code = int(int32(v))
		}
		return nil
	})
	return e, err
}

// listReader decodes a NodeList while it arrives: at any time, one Node is in memory.
type listReader struct {
	r      *bufio.Reader
	buf    []byte
	prefix string
}

// field reads the tag of the next field, and the length if it is one of bytes; others are skipped.
func (l *listReader) field() (num protowire.Number, size int, err error) {
	for {
		tag, err := binary.ReadUvarint(l.r)
		if err != nil {
			return 0, 0, err
		}
		num, typ := protowire.DecodeTag(tag)
		switch typ {
		case protowire.BytesType:
			n, err := binary.ReadUvarint(l.r)
			if err != nil || n > 1<<31 {
				return 0, 0, orMalformed(err)
			}
			return num, int(n), nil
		case protowire.VarintType:
			_, err = binary.ReadUvarint(l.r)
		case protowire.Fixed32Type:
			_, err = l.r.Discard(4)
		case protowire.Fixed64Type:
			_, err = l.r.Discard(8)
		default:
			err = errMalformed
		}
		if err != nil {
			return 0, 0, orMalformed(err)
		}
	}
}

func orMalformed(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return errMalformed
	}
	return err
}

// bytes reads a field; what it returns is valid until the next call.
func (l *listReader) bytes(size int) ([]byte, error) {
	if size > maxObject {
		return nil, fmt.Errorf("an object of %d bytes: want at most %d", size, maxObject)
	}
	if cap(l.buf) < size {
		l.buf = make([]byte, size+size/4)
	}
	b := l.buf[:size]
	if _, err := io.ReadFull(l.r, b); err != nil {
		return nil, orMalformed(err)
	}
	return b, nil
}

// read decodes a NodeList and calls add for each Node.
func (l *listReader) read(add func(Node)) (meta ListMeta, err error) {
	head, err := l.bytes(len(magic))
	if err != nil {
		return meta, err
	}
	if string(head) != string(magic) {
		return meta, errMalformed
	}
	size := -1
	for size < 0 { // the fields before the message, which is field 2 of the envelope
		num, n, err := l.field()
		if err != nil {
			return meta, orMalformed(err)
		}
		if num == 2 {
			size = n
		} else if _, err := l.r.Discard(n); err != nil {
			return meta, orMalformed(err)
		}
	}
	message := &io.LimitedReader{R: l.r, N: int64(size)}
	l.r = bufio.NewReaderSize(message, 16<<10)
	for {
		num, n, err := l.field()
		if errors.Is(err, io.EOF) && message.N == 0 { // else the list was cut: the nodes that are missing are not gone
			return meta, nil
		}
		if err != nil {
			return meta, orMalformed(err)
		}
		b, err := l.bytes(n)
		if err != nil {
			return meta, err
		}
		switch num {
		case 1:
			err = fields(b, func(num protowire.Number, v uint64, b []byte) error {
				switch num {
				case 2:
					meta.ResourceVersion = string(b)
				case 3:
					meta.Continue = string(b)
				case 4:
					meta.Remaining = int64(v)
				}
				return nil
			})
		case 2:
			var node Node
			if node, err = decodeNode(b, l.prefix); err == nil {
				add(node)
			}
		}
		if err != nil {
			return meta, err
		}
	}
}

// decodeEvent reads one frame of a watch.
func decodeEvent(frame []byte, prefix string) (Event, error) {
	var e Event
	var object []byte
	err := fields(frame, func(num protowire.Number, _ uint64, b []byte) error {
		switch num {
		case 1:
			e.Type = string(b)
		case 2:
			return fields(b, func(num protowire.Number, _ uint64, b []byte) error {
				if num == 1 {
					object = b
				}
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return e, err
	}
	msg, err := unwrap(object)
	if err != nil {
		return e, err
	}
	if e.Type == "ERROR" {
		status, err := decodeStatusError(msg)
		if err != nil {
			return e, err
		}
		return e, status
	}
	e.Node, err = decodeNode(msg, prefix)
	return e, err
}
