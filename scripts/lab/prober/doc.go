// Command prober compares two servers as a censor's active prober would
// (docs/THREATS.md, row S10) and prints every difference. It knows nothing of
// Busel: any server in front of a web site can be held against that site.
//
//	go run ./scripts/lab/prober -a HOST:PORT -b HOST:PORT [-name SNI] [-path PATH]
//	    [-replay FILE [-delays 300ms,10s]] [-patience 10s] [-tolerance 50ms] [-only TEXT] [-json]
//
// -a and -b are IP addresses with a port. -replay names a client's first flight,
// as recorded bytes or in a capture (classic pcap); it is replayed after each of
// the delays, as it is and changed. Differences later than -patience are not
// seen: to compare the time-outs of usual servers give it 80s. As root it also
// compares TCP segments.
//
// Exit status: 0 no difference, 1 differences, 2 the servers were not compared.
package main
