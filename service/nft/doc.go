// Package nft puts programs of package service into nftables, over netlink. The design follows.
package nft
