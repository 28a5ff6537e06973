// Package censor is the router between the lab's client and the rest of the
// world: it forwards IP packets between two ports, lets a judge drop, change and
// inject, and makes the path as long and as bad as it is told to.
//
//	           ┌──────── censor ────────┐
//	client ────┤ judge ──── link up ────├──── world
//	client ────┤ judge ──── link down ──├──── world
//	           └────────────────────────┘
//
// The judge stands next to the client, as the boxes in access networks do
// (row S1 of the threats: TSPU): a packet of the client is judged before it has
// travelled, a packet of the world after. So what the censor forges toward the
// client comes at once and before any true answer, and what it forges toward the
// world takes the way up as the client's packets do. A [Link] is the way between
// the censor and the world.
//
// Each direction has a reader, which takes packets from its port and schedules
// them, and a sender, which delivers each when it is due; a packet that is due
// at once goes out from the reader. The runtime's timers are too coarse, up to
// 1 ms while it polls, so senders sleep in the kernel and are late by about
// 0.1 ms. No packet costs an allocation or a timer. The four threads run before
// all ordinary ones, but need one of the runtime's processors each: a program
// whose other goroutines are busy, too, should have four more of them than there
// are CPUs (GOMAXPROCS), or packets are late by milliseconds under load.
//
// A [Control] answers on a Unix socket: counters, and changes of links, rules and
// the capture while traffic runs. A [Capture] is a pcapng file of what the judge
// saw and what was done with it.
package censor
