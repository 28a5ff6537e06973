package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"busel/internal/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"relayd": func() { os.Exit(cli.Start(program())) }})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata"})
}
