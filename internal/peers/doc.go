// Package peers holds what vxlan and hostgw share: which peers of a set can be programmed together and who wins where two claim the
// same, which of them the kernel reaches without a gateway, and how the routes to their pods get from what is there to what is wanted.
//
// It is pure: no kernel, no clock, no goroutine.
package peers
