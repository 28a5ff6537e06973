//go:build race

package picture

// race leaves out the largest pictures: the race detector makes drawing them take
// minutes, and nothing here runs at the same time as anything else.
const race = true
