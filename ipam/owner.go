package ipam

import "strings"

const (
	maxIDLen     = 128
	maxIfnameLen = 15 // IFNAMSIZ - 1
	maxNodeLen   = 253
)

// Validate says whether o can be an owner: an [*OwnerError] if not. Callers other than CNI's skel come here unchecked, and skel bounds no length
// and lets '%' through (seen 2026 with containernetworking/cni v1.3).
func (o Owner) Validate() error {
	if !validID(o.ContainerID, maxIDLen) {
		return &OwnerError{"containerID", clip(o.ContainerID, maxIDLen),
			`want 1 to 128 bytes of A-Z a-z 0-9 _ . - beginning with a letter or digit, without ".."`}
	}
	if !validIfname(o.Ifname) {
		return &OwnerError{"ifname", clip(o.Ifname, maxIfnameLen),
			"want 1 to 15 printable ASCII bytes without '/', ':', '%' and space, not \".\" or \"..\""}
	}
	return nil
}

func validID(s string, most int) bool {
	if s == "" || len(s) > most || strings.Contains(s, "..") {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return true
}

func validIfname(s string) bool {
	if s == "" || len(s) > maxIfnameLen || s == "." || s == ".." {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '/' || c == ':' || c == '%' {
			return false
		}
	}
	return true
}

func validNode(node string) error {
	if validID(node, maxNodeLen) {
		return nil
	}
	return &OwnerError{"node", clip(node, maxNodeLen), "want 1 to 253 bytes of A-Z a-z 0-9 _ . - beginning with a letter or digit"}
}

// clip keeps hostile input out of logs.
func clip(s string, most int) string {
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
