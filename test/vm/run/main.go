// Command run is being written.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/podnet/podnet/test/vm"
)

func main() {
	r, err := vm.Run(context.Background(), vm.Config{Argv: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr, Console: os.Stderr})
	fmt.Println(r, err)
}
