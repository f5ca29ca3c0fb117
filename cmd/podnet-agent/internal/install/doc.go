// Package install puts the CNI plugin's binary, and a configuration list if it is given one, where the container runtime looks for them.
//
// What it does: [Install] writes the binary, then the list, each only if it differs; the list comes last, because a runtime that sees it may start
// pods at once. [Uninstall] removes the list, then the binary.
//
// What it owns: the file podnet-cni in the directory of binaries, recognised by the Go build information in it; a list that reads as the given one.
//
// What it never touches: other files. A symbolic link in the place of a file is replaced, never followed. Directories that others than root may write to are
// refused: whoever can write there is root on the node at the next pod.
//
// Failure: a file is written under another name in the same directory, made durable, read back and compared by SHA-256, renamed, and the directory
// made durable. A reader, a kill, a full disk or a power cut sees the old file or the new one; what a killed run left is removed by the next. A plugin
// that runs meanwhile goes on with the old file, and starting one never meets a file that is open for writing (ETXTBSY).
//
// Privileges: none but owning the directories. Concurrency: a lock on the directory has one process work at a time; another waits for it.
package install
