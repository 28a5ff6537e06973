//go:build linux

package prober

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// captured makes a capture of one link type.
func captured(order binary.AppendByteOrder, link uint32, packets ...[]byte) []byte {
	file := order.AppendUint32(nil, 0xa1b2c3d4)
	file = order.AppendUint32(append(file, make([]byte, 16)...), link)
	for _, p := range packets {
		file = order.AppendUint32(append(file, make([]byte, 8)...), uint32(len(p)))
		file = append(order.AppendUint32(file, uint32(len(p))), p...)
	}
	return file
}

// packet is TCP over IPv4 behind a link header of n bytes, with an Ethernet
// trailer.
func packet(n int, up bool, flags byte, seq uint32, data string) []byte {
	ip := []byte{0x45, 0, 0, byte(40 + len(data)), 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
	seg := []byte{0x80, 0, 1, 187}
	if !up {
		ip[15], ip[19] = 2, 1
		seg = []byte{1, 187, 0x80, 0}
	}
	seg = append(binary.BigEndian.AppendUint32(seg, seq), 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0)
	return append(append(append(append(make([]byte, n), ip...), seg...), data...), "trailer"...)
}

func TestFirstFlight(t *testing.T) {
	const syn, ack = 2, 16
	talk := func(n int) [][]byte {
		return [][]byte{
			packet(n, true, ack, 50, "from another connection"), packet(n, true, syn, 99, ""), packet(n, false, syn|ack, 7, ""),
			packet(n, true, ack, 100, "first"), packet(n, true, ack, 100, "first"), packet(n, true, ack, 105, "flight"),
			packet(n, false, ack, 8, "answer"), packet(n, true, ack, 111, "second"),
		}
	}
	for _, tt := range []struct {
		file       []byte
		want, fail string
	}{
		{captured(binary.LittleEndian, 1, talk(14)...), "firstflight", ""},
		{captured(binary.BigEndian, 101, talk(0)...), "firstflight", ""},
		{captured(binary.LittleEndian, 113, talk(16)...), "firstflight", ""},
		{captured(binary.LittleEndian, 276, talk(20)[:5]...), "first", ""},
		{captured(binary.LittleEndian, 99, talk(14)...), "", "no TCP connection"},
		{captured(binary.LittleEndian, 1), "", "no TCP connection"},
		{captured(binary.LittleEndian, 1)[:20], "", "cut short"},
		{[]byte{0x16, 3, 1, 0, 1, 9}, "\x16\x03\x01\x00\x01\x09", ""},
		{nil, "", "0 bytes"},
		{make([]byte, maxFlight+1), "", "65537 bytes"},
	} {
		got, err := FirstFlight(tt.file)
		switch {
		case tt.fail == "" && (err != nil || string(got) != tt.want):
			t.Errorf("got %q, %v; want %q", got, err, tt.want)
		case tt.fail != "" && (err == nil || !strings.Contains(err.Error(), tt.fail)):
			t.Errorf("got %q, %v; want an error with %q", got, err, tt.fail)
		}
	}
}

// Whatever a file holds, the flight is a bounded part of it, in its order.
func FuzzFirstFlight(f *testing.F) {
	f.Add(captured(binary.LittleEndian, 1, packet(14, true, 2, 1, ""), packet(14, true, 16, 2, "hello")))
	f.Add(captured(binary.BigEndian, 101, packet(0, true, 2, 1, ""), packet(0, true, 16, 2, "hello")))
	f.Fuzz(func(t *testing.T, file []byte) {
		flight, err := FirstFlight(file)
		if err != nil {
			return
		}
		if len(flight) == 0 || len(flight) > 2*maxFlight || len(flight) > len(file) {
			t.Fatalf("%d bytes of a file of %d", len(flight), len(file))
		}
		for _, b := range flight {
			i := bytes.IndexByte(file, b)
			if i < 0 {
				t.Fatal("a byte is not from the file, or not in its order")
			}
			file = file[i+1:]
		}
	})
}
