package nodefile

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v2"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/rtnl"
)

const (
	maxFile     = 16 << 20
	maxDocument = 1 << 20
)

type sum [sha256.Size]byte

// document is one description as it was read.
type document struct {
	sum  sum
	node node.Node
	name string // what could be read of the name, even if err is set; "" if nothing
	line int
	err  error
}

// parse returns the documents of a file, in order. What known has is not parsed again.
func parse(data []byte, isJSON bool, known map[sum]node.Node) []document {
	split := splitYAML
	decode := decodeYAML
	if isJSON {
		split, decode = splitJSON, decodeJSON
	}
	var docs []document
	for _, c := range split(data) {
		d := document{line: c.line, err: c.err}
		switch {
		case c.err != nil:
		case len(c.text) > maxDocument:
			d.err = fmt.Errorf("%d bytes: want at most %d", len(c.text), maxDocument)
		default:
			d.sum = sha256.Sum256(c.text)
			n, ok := known[d.sum]
			if !ok {
				n, d.err = describe(decode, c.text)
			}
			d.node, d.name = n, n.Name
		}
		docs = append(docs, d)
	}
	return docs
}

// chunk is the text of one document and the line where it starts.
type chunk struct {
	text []byte
	line int
	err  error
}

// splitYAML cuts at the document markers. Documents of blank lines and comments are no documents.
func splitYAML(data []byte) []chunk {
	var out []chunk
	start, first, number, blank := 0, 1, 0, true
	flush := func(end int) {
		if !blank {
			out = append(out, chunk{text: data[start:end], line: first})
		}
		blank = true
	}
	offset := 0
	for line := range bytes.Lines(data) {
		number++
		end := offset + len(line)
		text := bytes.TrimRight(line, " \t\r\n")
		switch {
		case bytes.Equal(text, []byte("---")) || bytes.Equal(text, []byte("...")):
			flush(offset)
			start, first = end, number+1
		case bytes.HasPrefix(text, []byte("--- ")):
			flush(offset)
			start, first = offset+len("---"), number
			blank = bytes.HasPrefix(bytes.TrimSpace(text[len("---"):]), []byte("#"))
		default:
			text = bytes.TrimSpace(text)
			blank = blank && (len(text) == 0 || text[0] == '#')
		}
		offset = end
	}
	flush(len(data))
	return out
}

// splitJSON cuts after each JSON value. Behind a syntax error nothing can be told apart any more: it is the last chunk.
func splitJSON(data []byte) []chunk {
	var out []chunk
	dec := json.NewDecoder(bytes.NewReader(data))
	for {
		var raw json.RawMessage
		at := dec.InputOffset()
		at += int64(len(data[at:]) - len(bytes.TrimLeft(data[at:], " \t\r\n")))
		line := 1 + bytes.Count(data[:at], []byte("\n"))
		if len(out) > 0 && line == 1 {
			line = out[len(out)-1].line
		}
		switch err := dec.Decode(&raw); {
		case errors.Is(err, io.EOF):
			return out
		case err != nil:
			return append(out, chunk{line: line, err: fmt.Errorf("json: %w", err)})
		}
		out = append(out, chunk{text: raw, line: line})
	}
}

func decodeYAML(text []byte) (map[string]any, error) {
	fields := make(map[string]any)
	err := yaml.UnmarshalStrict(text, &fields)
	var faults *yaml.TypeError
	switch {
	case errors.As(err, &faults):
		reason, _, _ := strings.Cut(faults.Errors[0], " into map")
		return nil, fmt.Errorf("%s: want one node, with keys and values", reason)
	case err != nil:
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return fields, nil
}

func decodeJSON(text []byte) (map[string]any, error) {
	fields := make(map[string]any)
	if err := json.Unmarshal(text, &fields); err != nil {
		var mismatch *json.UnmarshalTypeError
		if errors.As(err, &mismatch) {
			return nil, fmt.Errorf("a JSON %s: want one node, an object", mismatch.Value)
		}
		return nil, fmt.Errorf("json: %w", err)
	}
	return fields, nil
}

// describe turns a document into a node. On error the node has the name, if there was one.
func describe(decode func([]byte) (map[string]any, error), text []byte) (node.Node, error) {
	fields, err := decode(text)
	if err != nil {
		return node.Node{}, err
	}
	var n node.Node
	var faults []error
	fault := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		switch value := fields[key]; key {
		case "name":
			n.Name, err = str(key, value)
			fault(err)
		case "podCIDRs":
			n.PodCIDRs, err = list(key, value, netip.ParsePrefix, "a CIDR such as 10.244.1.0/24")
			fault(err)
		case "addresses":
			n.Addresses, err = list(key, value, netip.ParseAddr, "an address such as 192.168.1.11")
			fault(err)
		case "vtepMAC":
			s, err := str(key, value)
			if fault(err); err == nil {
				n.VTEPMAC, err = vtepMAC(s)
				fault(err)
			}
		default:
			fault(fmt.Errorf("%s: unknown field: want name, podCIDRs, addresses or vtepMAC", brief(key)))
		}
	}
	if len(faults) == 0 {
		fault(n.Validate())
	}
	if node.CheckName(n.Name) != nil {
		return node.Node{}, errors.Join(faults...)
	}
	return n, errors.Join(faults...)
}

func str(field string, value any) (string, error) {
	s, ok := value.(string)
	if !ok {
		return "", fmt.Errorf("%s %s: want a string", field, brief(value))
	}
	return s, nil
}

func vtepMAC(s string) (rtnl.MAC, error) {
	mac, err := rtnl.ParseMAC(s)
	if err != nil || mac.IsZero() {
		return rtnl.MAC{}, fmt.Errorf("vtepMAC %s: want six octets such as 02:00:0a:f4:01:00", brief(s))
	}
	return mac, nil
}

func list[T any](field string, value any, parse func(string) (T, error), want string) ([]T, error) {
	items, ok := value.([]any)
	if !ok {
		return nil, fmt.Errorf("%s %s: want a list", field, brief(value))
	}
	if len(items) > 2 {
		return nil, fmt.Errorf("%s: %d entries: want at most one per family", field, len(items))
	}
	out := make([]T, 0, len(items))
	var faults []error
	for i, item := range items {
		s, _ := item.(string)
		v, err := parse(s)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s[%d] %s: want %s", field, i, brief(item), want))
		}
		out = append(out, v)
	}
	return out, errors.Join(faults...)
}

// brief quotes a value so that a hostile one cannot flood or break a log line.
func brief(value any) string {
	s := fmt.Sprint(value)
	if len(s) > 64 {
		s = s[:64] + "..."
	}
	return fmt.Sprintf("%q", s)
}
