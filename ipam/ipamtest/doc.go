// Package ipamtest holds the contract of [ipam.Store], in the manner of testing/fstest: [TestStore] says whether a store is one.
//
// What it does: each part of the contract runs on an empty store of its own, opened twice where processes matter.
//
// What it owns and what it never touches: it keeps nothing, and touches only the stores that it is given.
//
// Failure: a broken promise is a test error that says what was promised. Records that a test puts by itself are made by [Record], read by [Records].
//
// Privileges and kernel version: those of the store under test.
//
// Concurrency: the parts run one after the other; the part Exclusion uses the store from several goroutines.
package ipamtest
