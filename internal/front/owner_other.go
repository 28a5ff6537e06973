//go:build !linux

package front

// portOwner would name the process that listens on a port; this system does not
// tell without privileges.
func portOwner(uint16) (pid int, process string) { return 0, "" }
