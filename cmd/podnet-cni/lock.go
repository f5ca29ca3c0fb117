package main

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

// lockName is a file in a network's state directory.
const lockName = "attachments.lock"

// allAttachments is the key of every attachment at once.
const allAttachments = ""

// attachmentKey names the attachment of a call.
func attachmentKey(args *skel.CmdArgs) string { return args.ContainerID + " " + args.IfName }

// lockRange returns the bytes of the lock file that stand for a key: one byte at the place of its hash, or all.
func lockRange(key string) (start, length int64) {
	if key == allAttachments {
		return 0, 0 // to the end of the file, wherever that is
	}
	sum := sha256.Sum256([]byte(key))
	return int64(binary.BigEndian.Uint64(sum[:8]) >> 2), 1
}

// netnsOverride reads CNI_NETNS_OVERRIDE as skel does.
func netnsOverride(s string) bool { return s == "1" || len(s) == 4 && isTrue(s) }

func isTrue(s string) bool {
	truth, err := parseTruth(s)
	return err == nil && truth
}

func errLocked(path string) error {
	return types.NewError(types.ErrTryAgainLater, "lock "+path+": another process works on this attachment for more than "+lockTimeout.String(), "")
}
