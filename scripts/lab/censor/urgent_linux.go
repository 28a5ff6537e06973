package censor

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// urgent makes the goroutine's thread run before all ordinary ones, until the
// function that it returns is called. Otherwise the path would get longer
// whenever the machine is busy, and a scenario would measure that. Where it is
// not allowed times are less exact, which the counters show.
func urgent() (restore func()) {
	runtime.LockOSThread()
	set := func(policy, priority uint32, slack uintptr) {
		_ = unix.SchedSetAttr(0, &unix.SchedAttr{
			Size: unix.SizeofSchedAttr, Policy: policy, Priority: priority,
			Flags: unix.SCHED_FLAG_RESET_ON_FORK,
		}, 0)
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, slack, 0, 0, 0)
	}
	set(unix.SCHED_RR, 1, 1) // ns
	return func() {
		set(unix.SCHED_NORMAL, 0, 0) // the default slack
		runtime.UnlockOSThread()
	}
}
