package iptables

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"strings"
)

// maxName is the longest name of a chain (XT_EXTENSION_MAXNAMELEN without the zero).
const maxName = 28

// names makes the names of chains. Everything that begins with the prefix is ours.
type names struct{ prefix string }

// newNames returns the names for a user of several on one host. The prefixes of two users never begin one with the other.
func newNames(user string) names {
	if user == "" {
		return names{"PODNET-SVC-"}
	}
	return names{"PODNET-SVC" + hash(4, user) + "-"}
}

// fixed returns the name of a chain that there is once, such as PODNET-SVC-FILTER.
func (n names) fixed(word string) string { return n.prefix + word }

// hashed returns the name of one of many chains, such as PODNET-SVC-C-K3MZQ2XJ5LT7WBA: 75 bits of a hash of the parts, which tell ("a", "bc") from ("ab", "c"). No text from outside
// comes into a name as it is. That two keys have the same name is noticed, see table.owned.
func (n names) hashed(kind byte, parts ...string) string {
	prefix := n.prefix + string(kind) + "-"
	return prefix + hash(maxName-len(prefix), parts...)
}

// ours reports whether a chain is one of ours.
func (n names) ours(chain string) bool { return strings.HasPrefix(chain, n.prefix) }

func hash(length int, parts ...string) string {
	h := sha256.New()
	var size [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(size[:], uint64(len(p)))
		h.Write(size[:])
		h.Write([]byte(p))
	}
	return base32.StdEncoding.EncodeToString(h.Sum(nil))[:length]
}

// note returns text for a comment: what iptables-save prints without quotes, and cut to what a comment holds beside a fingerprint.
func note(text string) string {
	const most = 200
	text = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("-._/:", r):
			return r
		}
		return '_'
	}, text)
	return text[:min(len(text), most)]
}
