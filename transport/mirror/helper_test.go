package mirror

import (
	"log"
	"testing"
)

// discardLog keeps a site's complaints about strangers out of the output.
func discardLog(t testing.TB) *log.Logger { return log.New(testWriter{t}, "", 0) }

type testWriter struct{ testing.TB }

func (testWriter) Write(b []byte) (int, error) { return len(b), nil }
