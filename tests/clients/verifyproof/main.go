// Verifyproof checks a tlog-proof under a tlog-policy with Torchwood: verifyproof POLICY LEAF PROOF.
package main

import (
	"fmt"
	"os"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/tlog"
)

func read(path string) []byte {
	content, err := os.ReadFile(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return content
}

func main() {
	policy, err := torchwood.ParsePolicy(read(os.Args[1]))
	if err == nil {
		err = torchwood.VerifyProof(policy, tlog.RecordHash(read(os.Args[2])), read(os.Args[3]))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("valid")
}
