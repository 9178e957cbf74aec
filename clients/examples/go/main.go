// Labels of a picture, and which heads spoke for the first: go run . digit.png [localhost:50051]
package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"log"
	"math"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	headwise "github.com/headwise/headwise/clients/examples/go/generated/headwise/v1"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	if len(os.Args) < 2 {
		log.Fatal("expected the file of a picture: go run . digit.png")
	}
	server := append(os.Args, "localhost:50051")[2] // that of the command line where there is one
	images := []*headwise.Image{{Content: &headwise.Image_Encoded{Encoded: must(os.ReadFile(os.Args[1]))}}}
	connection := must(grpc.NewClient(server, grpc.WithTransportCredentials(insecure.NewCredentials())))
	defer connection.Close()
	client := headwise.NewHeadwiseServiceClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	// The manifest has the names of labels and heads. All calls ask for the version that it is of.
	manifest := must(client.GetModel(ctx, &headwise.GetModelRequest{})).GetManifest()
	model, version := manifest.GetName(), manifest.GetVersion()

	classify := &headwise.ClassifyRequest{Model: model, Version: version, Images: images, TopK: 3}
	for _, score := range must(client.Classify(ctx, classify)).GetClassifications()[0].GetTop() {
		fmt.Printf("%s: %.2f %%\n", score.GetLabel(), 100*score.GetProbability())
	}

	explain := &headwise.ExplainRequest{Model: model, Version: version, Images: images, TopK: 1}
	explanation := must(client.Explain(ctx, explain)).GetExplanations()[0]
	logit := func(card *headwise.HeadCard) float64 { // one row a head, one column
		contributions := explanation.GetHeadContributions()
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(contributions[4*card.GetRow():])))
	}
	heads := slices.DeleteFunc(manifest.GetHeadCards(), (*headwise.HeadCard).GetPruned)
	slices.SortFunc(heads, func(one, other *headwise.HeadCard) int {
		return cmp.Compare(math.Abs(logit(other)), math.Abs(logit(one)))
	})
	fmt.Printf("why %s, in logits:\n", manifest.GetLabels()[explanation.GetTargetIndices()[0]])
	for _, card := range heads[:min(5, len(heads))] {
		fmt.Printf("encoder %d head %d: %.4f\n", card.GetEncoder(), card.GetHead(), logit(card))
	}
}
